"""The seam between llm360 and wherever bytes live: one small interface and a few options.

A store holds whole objects under keys. Nothing above this module knows whether that is a bucket, a folder or
a web server, and nothing here knows what the bytes mean. Three promises carry the rest of llm360:

* a reader sees an object whole or not at all, also after a crash in the middle of a write;
* `create` lets exactly one of many writers win (the ledger stands on it);
* a failure is one sentence of `llm360.errors`, and `StorageUnavailableError` always means "later it may work".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from llm360.errors import ObjectNotFoundError, StoreUnusableError
from llm360.storage import transfer

MIB = 1024 * 1024


class NotAFileError(ObjectNotFoundError):
    """Where the object should lie, there is a pipe, a socket or a device: nothing that could be read to its end."""


class ObjectInfo(NamedTuple):
    """What a listing tells about an object."""

    key: str
    size: int  # bytes
    modified: float  # seconds since the epoch, by the store's clock


class UnfinishedWrite(NamedTuple):
    """What a crash in the middle of a write left behind; no reader ever sees it."""

    key: str  # of the object in the making, or of its temporary file
    size: int  # bytes; 0 where the store does not tell
    modified: float  # seconds since the epoch: when it was begun or last written
    upload: str  # S3's name of a multipart upload, else empty


@dataclass(frozen=True)
class StorageOptions:
    """How to reach a store. Secrets are never here: they come from the environment, as `AWS_*` names."""

    endpoint: str | None = None
    """URL of an S3 server; default `AWS_ENDPOINT_URL`, else Amazon's."""
    region: str | None = None
    """Default `AWS_REGION`, `AWS_DEFAULT_REGION` or the profile's, else us-east-1, which other servers ignore."""
    path_style: bool | None = None
    """Bucket in the path, not in the host name: what servers other than Amazon's understand. Default
    `LLM360_S3_PATH_STYLE`, else true."""
    connect_timeout: float = 10.0
    """Seconds for one attempt to connect."""
    read_timeout: float = 60.0
    """Seconds without a byte before one attempt counts as failed; a busy store may take its time, a web server 20."""
    max_attempts: int = 5
    """Attempts of one request, the first included, with exponential backoff between them."""
    part_bytes: int = 8 * MIB
    """Bytes of one part of a parallel transfer: large enough that latency disappears. S3 wants at least 5 MiB."""
    parallel: int = 4
    """Parts under way at a time in one transfer; memory stays below about 2 × `parallel` × `part_bytes`."""


class Storage(ABC):
    """Objects under keys.

    Keys are relative and `/`-separated. An object is safe to share between threads and to pickle into other
    processes: connections are made on first use, once per process.

    Every method raises `StorageUnavailableError` where the store gives no usable answer after all retries and
    `StoreUnusableError` where it refuses for good.

    Attributes:
        uri: The normalised address of the root, without a slash at the end.
        options: How the store is reached.
    """

    uri: str
    options: StorageOptions

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The whole object. Raises `ObjectNotFoundError`."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """The bytes `[start, start + length)`, fewer where the object ends before. Raises `ObjectNotFoundError`."""

    @abstractmethod
    def put(self, key: str, data: bytes) -> None:
        """Write the object, replacing what was there; readers see the old bytes or the new, never a mixture."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> None:
        """Write the object only where the key is free; of many writers exactly one succeeds.

        Raises:
            ObjectExistsError: the key is taken. After an answer was lost on the way it may be taken by these
                very bytes: `create` does not guess, the caller reads the key to know.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with the prefix (any string, not only a folder), sorted by key."""

    @abstractmethod
    def stat(self, key: str) -> ObjectInfo:
        """Size and time of an object. Raises `ObjectNotFoundError`."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; a key that does not exist is no error."""

    @abstractmethod
    def at(self, prefix: str) -> Storage:
        """The same store with its root at `prefix`, sharing connections."""

    @abstractmethod
    def open_parts(self, key: str, size: int) -> transfer.PartWriter:
        """Begin to write an object of `size` bytes in parts, for `upload`."""

    @abstractmethod
    def list_unfinished(self) -> Iterator[UnfinishedWrite]:
        """Writes below the root that are under way or were broken off; only their age tells which."""

    @abstractmethod
    def delete_unfinished(self, write: UnfinishedWrite) -> None:
        """Remove what `list_unfinished` found; one that is gone is no error."""

    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""
        try:
            self.stat(key)
        except ObjectNotFoundError:
            return False
        return True

    def upload(self, key: str, path: Path) -> str:
        """Write a file as an object: parts in parallel, bounded memory, committed whole or not at all.

        Returns:
            `sha256:…` of the bytes sent, computed on the way; the store's own checks of each part passed.

        Raises:
            IntegrityError: the store holds something else than what was sent, or the file changed meanwhile.
            InputError: the file cannot be read.
        """
        return transfer.upload(self, key, path)

    def download(self, key: str, path: Path, digest: str | None = None) -> None:
        """Read an object into a file: ranges in parallel, bounded memory, the file renamed in place when complete.

        Args:
            key: The object.
            path: The file, replaced if it exists; missing folders are made.
            digest: `sha256:…` that the bytes must have.

        Raises:
            ObjectNotFoundError: no such object.
            IntegrityError: the bytes are not those of `digest`, or the object changed meanwhile; `path` is untouched.
        """
        transfer.download(self, key, path, digest)

    def iter_bytes(self, key: str, chunk_bytes: int = 8 * MIB) -> Iterator[bytes]:
        """The object in chunks of `chunk_bytes` (the last one shorter), reading ahead with bounded memory."""
        return transfer.read_ahead(self, key, self.stat(key).size, chunk_bytes)


def check_key(key: str) -> str:
    """The key itself, if every store can hold it.

    Raises:
        StoreUnusableError: the key is empty, absolute, or has an empty, `.` or `..` segment or a control character.
    """
    segments = key.split("/")
    if any(segment in ("", ".", "..") for segment in segments) or any(ord(letter) < 32 for letter in key):
        raise StoreUnusableError(
            f"key {key!r} cannot be stored; keys are relative, '/'-separated names"
            " without empty, '.' or '..' parts and without control characters",
            reason="InvalidKey",
        )
    return key


def join_key(prefix: str, key: str) -> str:
    """`prefix/key`, or just the one that is not empty."""
    return f"{prefix}/{key}" if prefix and key else prefix or key
