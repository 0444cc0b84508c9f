"""A bucket, or a part of one, as a store: `s3://bucket/prefix` on Amazon or any server that speaks S3.

boto3 retries by itself: throttling, 5xx and broken connections, `max_attempts` in all with exponential
backoff. That is right for a conditional create too. The first attempt may have taken effect and only its
answer been lost; the retry then finds the key taken, and `create` says so (`ObjectExistsError`). Only the
caller can tell its own bytes from a rival's, by reading them.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import os
import time
import zlib
from collections.abc import Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import boto3.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    ReadTimeoutError,
)

from llm360 import __version__
from llm360.canonical import DIGEST_PREFIX
from llm360.errors import IntegrityError, ObjectNotFoundError, StorageError, StoreUnusableError
from llm360.storage.base import MIB, ObjectInfo, Storage, StorageOptions, UnfinishedWrite, check_key, join_key
from llm360.storage.open import without_credentials
from llm360.storage.process import PerProcess
from llm360.storage.retry import backoff, is_to_be_told
from llm360.storage.s3_errors import (
    ConflictError,
    DamagedError,
    NotImplementedByStoreError,
    Place,
    Standing,
    UploadGoneError,
    explain,
)
from llm360.storage.transfer import PartWriter

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

LOGGER = logging.getLogger(__name__)

# Limits of S3 itself.
MIN_PART_BYTES = 5 * MIB
MAX_PARTS = 10_000

# Connections kept per process: several transfers, each with its own threads, share one client.
POOL_CONNECTIONS = 64

PATH_STYLE = "LLM360_S3_PATH_STYLE"
"""Environment variable: `true` or `false`."""


def make_client(options: StorageOptions) -> S3Client:
    """A boto3 client. Raises `StoreUnusableError` where what it is made from cannot be."""
    endpoint = options.endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint is not None and without_credentials(endpoint) != endpoint:
        raise StoreUnusableError(
            f"the endpoint {without_credentials(endpoint)} is written with credentials, which would be shown with it;"
            " set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead",
            reason="InvalidStorageUri",
        )
    is_encrypted = endpoint is None or endpoint.lower().startswith("https:")
    config = Config(
        connect_timeout=options.connect_timeout,
        read_timeout=options.read_timeout,
        retries={"mode": "standard", "total_max_attempts": options.max_attempts},
        # The signature covers a sha256 of the body, one pass over every byte. Inside TLS nobody can change it, and its
        # CRC32, which is signed, tells of damage; over plain HTTP the signature is all that holds it.
        s3={
            "addressing_style": "path" if _is_path_style(options) else "virtual",
            "payload_signing_enabled": not is_encrypted,
        },
        max_pool_connections=POOL_CONNECTIONS,
        tcp_keepalive=True,
        # Every write below carries its own CRC32; anything more would hash the bytes once again.
        request_checksum_calculation="when_required",
        user_agent_extra=f"llm360/{__version__}",
    )
    try:
        session = boto3.session.Session()
        region = options.region or os.environ.get("AWS_REGION") or session.region_name or "us-east-1"
        client = session.client("s3", endpoint_url=endpoint, region_name=region, config=config)
    except ValueError as error:
        raise StoreUnusableError(
            f"{endpoint!r} is no endpoint; write one like https://host:port in AWS_ENDPOINT_URL",
            reason="InvalidStorageUri",
        ) from error
    except BotoCoreError as error:
        raise explain(error, Place("s3://", "", endpoint or "Amazon S3", 0.0)) from error
    client.meta.events.register("before-call.s3", send_body_at_once)
    client.meta.events.register("needs-retry.s3", partial(tell_silence, options.max_attempts))
    return client


def _is_path_style(options: StorageOptions) -> bool:
    """As the options say, or else the environment: AWS has no variable of its own for that."""
    if options.path_style is not None:
        return options.path_style
    stated = os.environ.get(PATH_STYLE, "true")
    if stated not in ("true", "false"):
        raise StoreUnusableError(
            f"{PATH_STYLE} is {stated!r}; write true (the bucket stands in the path) or false (in the host's name)",
            reason="InvalidStorageUri",
        )
    return stated == "true"


def send_body_at_once(params: dict[str, Any], **_: Any) -> None:
    """Do not ask leave to send a body: that costs a round trip per write, and a second where nobody answers."""
    params["headers"].pop("Expect", None)


def tell_silence(max_attempts: int, attempts: int, endpoint: Any, caught_exception: Any = None, **_: Any) -> None:
    """Say that a server takes its time, before further attempts: all of them together are minutes.

    Args:
        max_attempts: Of a request.
        attempts: That were made.
        endpoint: botocore's.
        caught_exception: How the last one ended.
    """
    is_silent = isinstance(caught_exception, ReadTimeoutError | ConnectTimeoutError)
    if is_silent and attempts < max_attempts and is_to_be_told(endpoint.host):
        LOGGER.warning("no answer from %s; trying again (attempt %d of %d)", endpoint.host, attempts + 1, max_attempts)


class S3Storage(Storage):
    """Objects below a prefix of a bucket."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        options: StorageOptions | None = None,
        client: PerProcess[S3Client] | None = None,
    ) -> None:
        self.bucket = bucket
        self.prefix = check_key(prefix) if prefix else ""
        self.uri = join_key(f"s3://{bucket}", prefix)
        self.options = options or StorageOptions()
        self._bucket_seen = False
        self._client = client or PerProcess(partial(make_client, self.options))

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        return self._read(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Storage.get_range`."""
        if length <= 0:
            return b""
        return self._read(key, Range=f"bytes={start}-{start + length - 1}")

    def put(self, key: str, data: bytes) -> None:
        """See `Storage.put`."""
        self._put(key, data)

    def create(self, key: str, data: bytes) -> None:
        """See `Storage.create`."""
        for pause in backoff(self.options.max_attempts):
            try:
                return self._put(key, data, IfNoneMatch="*")
            except ConflictError:
                if pause is None:
                    raise
                time.sleep(pause)
            except NotImplementedByStoreError as error:
                raise StoreUnusableError(
                    f"{self.uri} has no conditional create ({error}); use a server that honours 'If-None-Match: *'",
                    reason="ConditionalCreateUnsupported",
                ) from error
        raise AssertionError("backoff ends in None")

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Storage.list`. Sorted here: not every server sorts by key as Amazon does."""
        found = (
            ObjectInfo(item["Key"].removeprefix(self._root), item["Size"], item["LastModified"].timestamp())
            for page in self._pages("list_objects_v2", prefix, {"ContinuationToken": "NextContinuationToken"})
            for item in page.get("Contents", [])
            if not item["Key"].endswith("/")  # consoles make such keys to show an empty folder
        )
        return iter(sorted(found))

    def list_unfinished(self) -> Iterator[UnfinishedWrite]:
        """See `Storage.list_unfinished`."""
        marks = {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"}
        for page in self._pages("list_multipart_uploads", "", marks):
            for item in page.get("Uploads", []):
                key = item["Key"].removeprefix(self._root)
                yield UnfinishedWrite(key, 0, item["Initiated"].timestamp(), item["UploadId"])

    def delete_unfinished(self, write: UnfinishedWrite) -> None:
        """See `Storage.delete_unfinished`."""
        with contextlib.suppress(UploadGoneError):
            self._call("abort_multipart_upload", write.key, Key=self._key(write.key), UploadId=write.upload)

    def stat(self, key: str) -> ObjectInfo:
        """See `Storage.stat`."""
        try:
            found = self._call("head_object", key, Key=self._key(key))
        except ObjectNotFoundError:
            self._look_for_bucket()
            raise
        return ObjectInfo(key, found["ContentLength"], found["LastModified"].timestamp())

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""
        with contextlib.suppress(ObjectNotFoundError):
            self._call("delete_object", key, Key=self._key(key))

    def at(self, prefix: str) -> S3Storage:
        """See `Storage.at`."""
        return S3Storage(self.bucket, join_key(self.prefix, prefix), self.options, self._client) if prefix else self

    def open_parts(self, key: str, size: int) -> PartWriter:
        """See `Storage.open_parts`."""
        part_bytes = max(self.options.part_bytes, MIN_PART_BYTES, -(-size // MAX_PARTS))
        if size <= part_bytes:
            return _WholeObject(self, key, part_bytes)
        return _MultipartUpload(self, key, size, part_bytes)

    def _key(self, key: str) -> str:
        return join_key(self.prefix, check_key(key))

    @property
    def _root(self) -> str:
        return f"{self.prefix}/" if self.prefix else ""

    def _pages(self, operation: str, prefix: str, marks: dict[str, str]) -> Iterator[dict[str, Any]]:
        """All pages of a listing; `marks` names what the next request takes from this answer, and how it calls it."""
        position: dict[str, str] = {}
        while True:
            page = self._call(operation, prefix, Prefix=self._root + prefix, **position)
            yield page
            if not page.get("IsTruncated"):
                return
            position = {ours: page[theirs] for ours, theirs in marks.items() if page.get(theirs)}

    def _look_for_bucket(self) -> None:
        """Raise if there is no bucket: the answer to HEAD of a key has no body that would tell.

        One look is enough. A store that may not be looked at is taken to exist.
        """
        if self._bucket_seen:
            return
        try:
            self._call("head_bucket", "")
        except StoreUnusableError as error:
            if error.reason == "BucketMissing":
                raise
        self._bucket_seen = True

    def _put(self, key: str, data: bytes, **condition: str) -> None:
        self._send("put_object", key, join_key(self.uri, key), data, crc32(data), Key=self._key(key), **condition)

    def _send(self, operation: str, key: str, what: str, data: bytes, checksum: str, **params: Any) -> dict[str, Any]:
        """Write bytes with their CRC32, again where they arrive damaged; the server's receipt, checked."""
        for pause in backoff(self.options.max_attempts):
            try:
                answer: dict[str, Any] = self._call(operation, key, Body=data, ChecksumCRC32=checksum, **params)
            except DamagedError:
                if pause is None:
                    raise
                time.sleep(pause)
            else:
                check_receipt(answer, data, checksum, what)
                return answer
        raise AssertionError("backoff ends in None")

    def _read(self, key: str, **params: str) -> bytes:
        """The body of a GET; boto3 retries until the body begins, this where it breaks off or arrives damaged."""
        for pause in backoff(self.options.max_attempts):
            started = time.monotonic()
            try:
                answer = self._call("get_object", key, Key=self._key(key), **params)
                # Not `with answer["Body"]`: that hands out the stream below, whose errors are not boto3's.
                with contextlib.closing(answer["Body"]) as body:
                    return bytes(body.read())
            except _RangeBehindEndError:
                return b""
            except (HTTPClientError, IncompleteReadError, FlexibleChecksumError) as error:
                if pause is None:
                    raise explain(error, self._place(key, started)) from error
                time.sleep(pause)
            except BotoCoreError as error:
                raise explain(error, self._place(key, started)) from error
        raise AssertionError("backoff ends in None")

    def _call(self, operation: str, about: str, **params: Any) -> Any:
        """One request to the server; `about` is the key of the sentence in which a failure is told."""
        client = self._client.get()
        started = time.monotonic()
        try:
            answer = getattr(client, operation)(Bucket=self.bucket, **params)
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in ("InvalidRange", "416"):
                raise _RangeBehindEndError(str(error)) from error
            raise explain(error, self._place(about, started)) from error
        except BotoCoreError as error:
            raise explain(error, self._place(about, started)) from error
        standing_of(client.meta.endpoint_url, self.bucket).worked()
        return answer

    def _place(self, key: str, started: float) -> Place:
        endpoint = self._client.get().meta.endpoint_url
        seconds = time.monotonic() - started
        return Place(join_key(self.uri, key), self.bucket, endpoint, seconds, standing_of(endpoint, self.bucket))


@cache
def standing_of(endpoint: str, bucket: str) -> Standing:  # noqa: ARG001 - the key under which it is kept
    """The one standing of a bucket in this process, however often it is opened."""
    return Standing()


class _RangeBehindEndError(StorageError):
    """A range that starts at or behind the end of its object."""


class _WholeObject(PartWriter):
    """An object of one part: a single PUT, held back until the whole file has been read."""

    def __init__(self, storage: S3Storage, key: str, part_bytes: int) -> None:
        self.storage = storage
        self.key = key
        self.part_bytes = part_bytes
        self.data = b""

    def write(self, index: int, data: bytes) -> None:
        assert index == 0, f"an object of one part got part {index}"
        self.data = data

    def commit(self, digest: str) -> None:  # noqa: ARG002 - the receipt of the PUT says as much
        self.storage.put(self.key, self.data)

    def abort(self) -> None:
        pass


class _MultipartUpload(PartWriter):
    """An object of several parts. The server shows nothing of it before all are there and named."""

    def __init__(self, storage: S3Storage, key: str, size: int, part_bytes: int) -> None:
        self.storage = storage
        self.key = key
        self.size = size
        self.part_bytes = part_bytes
        self.parts: dict[int, dict[str, Any]] = {}
        self.params = {"Key": storage._key(key)}
        begun = storage._call("create_multipart_upload", key, ChecksumAlgorithm="CRC32", **self.params)
        self.params["UploadId"] = begun["UploadId"]

    def write(self, index: int, data: bytes) -> None:
        number, checksum = index + 1, crc32(data)
        what = f"part {number} of {join_key(self.storage.uri, self.key)}"
        answer = self.storage._send("upload_part", self.key, what, data, checksum, PartNumber=number, **self.params)
        self.parts[index] = {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": checksum}

    def commit(self, digest: str) -> None:
        parts = [self.parts[index] for index in sorted(self.parts)]
        try:
            self.storage._call("complete_multipart_upload", self.key, MultipartUpload={"Parts": parts}, **self.params)
        except UploadGoneError:
            # Perhaps completed by an attempt whose answer was lost: then the object is there, and its bytes tell.
            if self._stored_digest() != digest:
                raise
        stored = self.storage.stat(self.key).size
        if stored != self.size:
            uri = join_key(self.storage.uri, self.key)
            raise IntegrityError(f"{uri} has {stored} bytes, {self.size} were sent; upload it again")

    def abort(self) -> None:
        # What cannot be removed now is for the bucket's rule on incomplete uploads.
        with contextlib.suppress(StorageError):
            self.storage._call("abort_multipart_upload", self.key, **self.params)

    def _stored_digest(self) -> str | None:
        hasher = hashlib.sha256()
        try:
            for chunk in self.storage.iter_bytes(self.key):
                hasher.update(chunk)
        except ObjectNotFoundError:
            return None
        return DIGEST_PREFIX + hasher.hexdigest()


def crc32(data: bytes) -> str:
    """The checksum in the form of S3's header: base64 of four big-endian bytes."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def check_receipt(answer: dict[str, Any], data: bytes, checksum: str, what: str) -> None:
    """Compare what the server says it stored with what was sent.

    A server that knows checksums has refused damaged bytes already and answers with the same CRC32. Of one that
    does not, the ETag is the MD5 of the bytes unless it encrypts with keys of its own; then nothing can be compared.

    Raises:
        IntegrityError: the server stored something else.
    """
    stored = answer.get("ChecksumCRC32")
    if stored is not None:
        sent = checksum
    else:
        stored, sent = answer.get("ETag", "").strip('"'), hashlib.md5(data, usedforsecurity=False).hexdigest()
        if len(stored) != len(sent) or "aws:kms" in str(answer.get("ServerSideEncryption")):
            return
    if stored != sent:
        raise IntegrityError(f"the store holds other bytes than were sent of {what}: checksum {stored}, not {sent}")
