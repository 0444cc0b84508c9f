"""A web server as a store, to read a published release: `http(s)://host/path`. It cannot list and cannot write.

Ranges are asked for, and servers that ignore the request and send the whole object are understood: one range
costs the bytes before it, and whole objects are then read as one stream instead of parts side by side.

A name and password in the address (`https://name:password@host/path`) are sent as Basic authentication and shown
nowhere: the store's `uri`, and so every sentence and every page, is without them.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from functools import partial
from typing import NoReturn, TypeVar
from urllib.parse import quote, unquote, urlsplit

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError, SSLError

from llm360 import __version__
from llm360.errors import LLM360Error, ObjectNotFoundError, StorageError, StorageUnavailableError, StoreUnusableError
from llm360.storage import transfer
from llm360.storage.base import MIB, ObjectInfo, Storage, StorageOptions, UnfinishedWrite, check_key, join_key
from llm360.storage.open import without_credentials
from llm360.storage.process import PerProcess
from llm360.storage.retry import backoff, is_to_be_told

T = TypeVar("T")

LOGGER = logging.getLogger(__name__)

LONGEST_SILENCE = 20.0
"""Seconds without a byte before an attempt counts as failed: a server of files that can answer has begun by then."""
PATIENCE = 60.0
"""Seconds of silence after which no attempt of a request is begun: a person waits for it, and a run asks again."""
SAID_AFTER = 5.0
"""Seconds of silence that a person must have noticed, and is told of."""

BUSY = (408, 429, 500, 502, 503, 504)
CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<size>\d+)$")

# Redirects are followed; attempts are counted here and not by urllib3, which cannot repeat a body that broke off.
NO_RETRIES = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)


class ForbiddenError(StoreUnusableError):
    """The server answers 403: reading is refused, or, as S3 has it for the public, the object is not there."""


class Silence:
    """How long nothing has come from the server, over all attempts of a request.

    A transfer that takes long is none that hangs, so time in which bytes arrive tries nobody's patience.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()

    def seconds(self) -> float:
        """Until now."""
        return time.monotonic() - self._since

    def was_broken(self, seconds_ago: float = 0.0) -> None:
        """Something came, the last of it so long ago."""
        self._since = max(self._since, time.monotonic() - seconds_ago)


def longest_silence(options: StorageOptions) -> float:
    """Seconds without a byte before an attempt counts as failed."""
    return min(options.read_timeout, LONGEST_SILENCE)


def make_pool(options: StorageOptions) -> urllib3.PoolManager:
    """Connections with the timeouts of the options."""
    return urllib3.PoolManager(
        maxsize=2 * options.parallel,
        timeout=urllib3.Timeout(connect=options.connect_timeout, read=longest_silence(options)),
        retries=NO_RETRIES,
        # Compressed on the way, an object's size and ranges would be those of other bytes.
        headers={"User-Agent": f"llm360/{__version__}", "Accept-Encoding": "identity"},
    )


class HttpStorage(Storage):
    """Objects below a URL, read only."""

    def __init__(
        self,
        uri: str,
        options: StorageOptions | None = None,
        pool: PerProcess[urllib3.PoolManager] | None = None,
        authorization: Mapping[str, str] | None = None,
    ) -> None:
        self.uri = without_credentials(uri)
        self.options = options or StorageOptions()
        self._pool = pool or PerProcess(partial(make_pool, self.options))
        self._authorization = authorization_of(uri) if authorization is None else authorization

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        return self._request(key, lambda response: response.read())

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Storage.get_range`."""
        if length <= 0:
            return b""

        def read(response: urllib3.BaseHTTPResponse) -> bytes:
            return response.read(length) if seek(response, start) else b""

        return self._request(key, read, Range=f"bytes={start}-{start + length - 1}")

    def iter_bytes(self, key: str, chunk_bytes: int = 8 * MIB) -> Iterator[bytes]:
        """See `Storage.iter_bytes`."""
        size = self._request(key, ranged_size, Range="bytes=0-0")
        return self._stream(key, chunk_bytes) if size is None else transfer.read_ahead(self, key, size, chunk_bytes)

    def stat(self, key: str) -> ObjectInfo:
        """See `Storage.stat`; `modified` is 0 where the server does not tell."""
        headers = self._request(key, lambda response: response.headers, method="HEAD")
        if "Content-Length" not in headers:
            raise StorageError(f"{join_key(self.uri, key)} has no size: the server sends no Content-Length")
        modified = headers.get("Last-Modified")
        seconds = parsedate_to_datetime(modified).timestamp() if modified else 0.0
        return ObjectInfo(key, int(headers["Content-Length"]), seconds)

    def put(self, key: str, data: bytes) -> NoReturn:
        """Refused: a web server is read-only here."""
        self._refuse(f"{key} ({len(data)} bytes) cannot be written")

    def create(self, key: str, data: bytes) -> NoReturn:
        """Refused: a web server is read-only here."""
        self._refuse(f"{key} ({len(data)} bytes) cannot be created")

    def open_parts(self, key: str, size: int) -> NoReturn:
        """Refused: a web server is read-only here."""
        self._refuse(f"{key} ({size} bytes) cannot be uploaded")

    def delete(self, key: str) -> NoReturn:
        """Refused: a web server is read-only here."""
        self._refuse(f"{key} cannot be deleted")

    def list(self, prefix: str = "") -> NoReturn:
        """Refused: a web server cannot list its objects."""
        self._refuse(f"'{prefix}*' cannot be listed")

    def list_unfinished(self) -> NoReturn:
        """Refused: a web server cannot list."""
        self._refuse("unfinished writes cannot be listed")

    def delete_unfinished(self, write: UnfinishedWrite) -> NoReturn:
        """Refused: a web server is read-only here."""
        self._refuse(f"{write.key} cannot be deleted")

    def at(self, prefix: str) -> HttpStorage:
        """See `Storage.at`."""
        if not prefix:
            return self
        return HttpStorage(join_key(self.uri, check_key(prefix)), self.options, self._pool, self._authorization)

    def _stream(self, key: str, chunk_bytes: int) -> Iterator[bytes]:
        """One response from beginning to end; where it breaks off, the next one goes on behind the last chunk."""
        position = 0
        silence = Silence()
        pauses = backoff(self.options.max_attempts)
        while True:
            try:
                with self._open(key, Range=f"bytes={position}-") as response, self._listening(key, silence):
                    if not seek(response, position):
                        return
                    while chunk := response.read(chunk_bytes):
                        yield chunk
                        position += len(chunk)
                        silence.was_broken()
                        pauses = backoff(self.options.max_attempts)  # count from here
                    return
            except (HTTPError, StorageUnavailableError) as error:
                self._wait(error, key, next(pauses), silence)

    def _request(
        self, key: str, read: Callable[[urllib3.BaseHTTPResponse], T], method: str = "GET", **headers: str
    ) -> T:
        """What `read` makes of the response, tried again where either breaks off."""
        silence = Silence()
        for pause in backoff(self.options.max_attempts):
            try:
                with self._open(key, method, **headers) as response, self._listening(key, silence):
                    return read(response)
            except (HTTPError, StorageUnavailableError) as error:
                self._wait(error, key, pause, silence)
        raise AssertionError("backoff ends in None")

    @contextlib.contextmanager
    def _listening(self, key: str, silence: Silence) -> Iterator[None]:
        """Have what arrives of an answer count as an end of the silence, and say where it breaks off."""
        try:
            yield
        except HTTPError as error:
            is_timeout = isinstance(error, ReadTimeoutError)
            silence.was_broken(seconds_ago=longest_silence(self.options) if is_timeout else 0.0)
            url = join_key(self.uri, key)
            raise StorageUnavailableError(f"the answer about {url} breaks off: {error}") from error

    def _wait(self, error: Exception, key: str, pause: float | None, silence: Silence) -> None:
        """Sleep before the next attempt; where none is worth it, raise what there is to say."""
        seconds = silence.seconds()
        explained = self._explain(error, key, seconds)
        if pause is None or seconds >= PATIENCE or not isinstance(explained, StorageUnavailableError):
            raise explained from error
        if seconds >= SAID_AFTER and is_to_be_told(urlsplit(self.uri).netloc):
            LOGGER.warning("%s; trying again for up to %.0f s", explained.message, PATIENCE - seconds)
        time.sleep(pause)

    def _open(self, key: str, method: str = "GET", **headers: str) -> urllib3.BaseHTTPResponse:
        """A response whose body is not yet read. Raises an error of ours where its status is one."""
        url = f"{self.uri}/{quote(check_key(key))}"
        pool = self._pool.get()
        response = pool.request(
            method, url, headers={**pool.headers, **self._authorization, **headers}, preload_content=False
        )
        if response.status in (200, 206, 416):
            return response
        response.close()
        said = f"{response.status} {response.reason or ''}".strip()
        if response.status in (404, 410):
            raise ObjectNotFoundError(f"{url} does not exist")
        if response.status in (401, 403):
            refused = ForbiddenError if response.status == 403 else StoreUnusableError
            raise refused(f"{url} may not be read ({said}); {self._advice(response.status)}", reason="NotReadable")
        if response.status in BUSY:
            raise StorageUnavailableError(f"{url} is not served at the moment: {said}")
        raise StorageError(f"{url} cannot be read: the server answers {said}")

    def _advice(self, status: int) -> str:
        """What to do where reading is refused."""
        elsewhere = "ask its publisher for access"
        if status != 401:
            return f"{elsewhere}, or use the s3:// address"
        if self._authorization:
            return f"correct the name and password in the address, or {elsewhere}"
        return f"write the address with a name and password (https://NAME:PASSWORD@host/path), or {elsewhere}"

    def _explain(self, error: Exception, key: str, seconds: float) -> LLM360Error:
        if isinstance(error, LLM360Error):
            return error
        cause = error.reason if isinstance(error, MaxRetryError) else error
        url = join_key(self.uri, key)
        if isinstance(cause, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(cause):
            return StoreUnusableError(
                f"the certificate of {self.uri} is not trusted; set SSL_CERT_FILE to its authority's file",
                reason="CertificateRefused",
            )
        return StorageUnavailableError(f"no answer about {url} in {seconds:.1f} s of attempts: {cause}")

    def _refuse(self, what: str) -> NoReturn:
        raise StoreUnusableError(
            f"{self.uri} is read-only: {what} through http(s); use the s3:// or file:// address", reason="ReadOnly"
        )


def authorization_of(uri: str) -> dict[str, str]:
    """The header that an address's name and password make (RFC 7617); none where it has none.

    Redirects to another host do not get it: urllib3 takes it away.
    """
    userinfo, separator, _ = uri.partition("://")[2].partition("/")[0].rpartition("@")
    if not separator:
        return {}
    name, _, password = userinfo.partition(":")
    token = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return {"Authorization": f"Basic {token}"}


def seek(response: urllib3.BaseHTTPResponse, start: int) -> bool:
    """Bring the response to byte `start` of its object; False where the object ends before.

    A server that ignores `Range` answers 200 and sends the object from its beginning.
    """
    if response.status == 416:
        return False
    if response.status == 206:
        found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
        if found is None or found["start"] is None or int(found["start"]) != start:
            raise StorageError(f"asked for bytes from {start}, got {response.headers.get('Content-Range')!r}")
        return True
    while start > 0 and (skipped := response.read(min(start, MIB))):
        start -= len(skipped)
    return start == 0


def ranged_size(response: urllib3.BaseHTTPResponse) -> int | None:
    """The object's size as told by the answer to a request for its first byte; None where ranges are ignored."""
    found = CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if response.status == 200 or (found is None and response.status == 206):
        return None
    return int(found["size"]) if found else 0
