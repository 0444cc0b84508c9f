"""Shards as local files that are known to be what the manifest names.

A shard's sha256 covers the whole file while a step needs a few row groups of it. So a shard is checked once per
node, before anything of it is parsed, and a small record says which file (device, inode, size, times) was found
right; later reads need one `fstat`. A shard of an object store is downloaded first, its digest checked on the
way, and kept in a bounded folder; a shard on a file system is read where it lies. Changing a file changes its
inode's times, which no program can set back, so a file that changed is checked again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from llm360.canonical import DIGEST_PREFIX
from llm360.errors import InputError, IntegrityError, ObjectNotFoundError, StorageError
from llm360.storage import Storage
from llm360.storage.file import FileStorage
from llm360_trainer.stream.plan import ShardPart

GIB = 1024**3


@dataclass(frozen=True)
class ShardCache:
    """Where a node keeps shards and the records of its checks; shared by all of a user's processes there."""

    folder: Path
    """Default `$LLM360_CACHE_DIR`, else `llm360-<user id>` in the temporary folder."""
    limit_bytes: int = 32 * GIB
    """Default `$LLM360_CACHE_BYTES`, else 32 GiB, over a hundred shards: ranks and attempts find what another
    downloaded. The least recently used go first; the shard in use stays even where it alone is larger."""

    @classmethod
    def from_environment(cls) -> ShardCache:
        """The cache that `LLM360_CACHE_DIR` and `LLM360_CACHE_BYTES` describe.

        Raises:
            InputError: the size is no number of bytes.
        """
        folder = os.environ.get("LLM360_CACHE_DIR") or f"{tempfile.gettempdir()}/llm360-{os.getuid()}"
        limit = os.environ.get("LLM360_CACHE_BYTES") or str(cls.limit_bytes)
        if not limit.isdigit():
            raise InputError(
                f"LLM360_CACHE_BYTES is '{limit}'; it must be a number of bytes, such as {cls.limit_bytes}"
            )
        return cls(Path(folder), int(limit))

    @contextmanager
    def open(self, storage: Storage, shard: ShardPart) -> Iterator[FileIO]:
        """A shard's verified file; what was read from it is right once the block ends without an error.

        Args:
            storage: Rooted at the manifest's folder.
            shard: Names the shard; its range of rows plays no role.

        Raises:
            ObjectNotFoundError: the shard is missing.
            IntegrityError: its bytes are not those that the manifest names, or it changed while it was read.
            StorageError: it cannot be read, or the cache's folder cannot be used.
        """
        try:
            with self._record(shard.sha256) as record:
                file = self._verified(storage, shard, record)
        except OSError as error:
            raise StorageError(
                f"cannot keep a checked copy of {_name(storage, shard)} in {self.folder}: {error.strerror or error};"
                " make room there or point LLM360_CACHE_DIR elsewhere"
            ) from error
        with file:
            before = os.fstat(file.fileno())
            yield file
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise IntegrityError(f"{_name(storage, shard)} was changed while it was read; restore it and start again")

    def _verified(self, storage: Storage, shard: ShardPart, record: FileIO) -> FileIO:
        checked = record.read()
        if isinstance(storage, FileStorage):
            file = _open_original(storage, shard)
            if checked != _identity(file):
                _check(storage, shard, file)
                _write_record(record, _identity(file))
            return file
        path = self._copy(shard.sha256)
        with suppress(FileNotFoundError):
            file = path.open("rb", buffering=0)
            if checked == _identity(file):
                os.utime(record.fileno())  # used just now: the last to be evicted
                return file
            file.close()
        self._make_room(shard)
        _download(storage, shard, path)
        file = path.open("rb", buffering=0)
        _write_record(record, _identity(file))
        return file

    def _copy(self, digest: str) -> Path:
        return self.folder / f"{digest.removeprefix(DIGEST_PREFIX)}.parquet"

    @contextmanager
    def _record(self, digest: str) -> Iterator[FileIO]:
        """The record of a shard's check, locked: of many processes one verifies and the others wait for it."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.folder.stat().st_uid != os.getuid():
            raise PermissionError(0, "the folder belongs to another user")
        with self._copy(digest).with_suffix(".checked").open("a+b", buffering=0) as record:
            fcntl.flock(record, fcntl.LOCK_EX)
            record.seek(0)
            yield record

    def _make_room(self, shard: ShardPart) -> None:
        """Remove the copies used least recently until the shard fits. Readers keep the files that they have open."""
        copies = []
        for path in self.folder.glob("*.parquet"):
            if path != self._copy(shard.sha256):
                with suppress(FileNotFoundError):  # gone by now: other processes make room as well
                    copies.append((path.with_suffix(".checked").stat().st_mtime, path.stat().st_size, path))
        total = shard.bytes + sum(size for _, size, _ in copies)
        for _, size, path in sorted(copies):
            if total <= self.limit_bytes:
                return
            if _evict(path):
                total -= size


def _evict(path: Path) -> bool:
    """Remove a copy, unless its record is locked: a process that has just fetched or checked it is about to open it."""
    with path.with_suffix(".checked").open("r+b", buffering=0) as record:
        try:
            fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink(missing_ok=True)
        return True


def _identity(file: FileIO) -> bytes:
    """Says which file on this node, and in which state, was checked."""
    found = os.fstat(file.fileno())
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}\n".encode()


def _write_record(record: FileIO, identity: bytes) -> None:
    record.truncate(0)
    record.write(identity)


def _open_original(storage: FileStorage, shard: ShardPart) -> FileIO:
    path = storage.root / shard.key
    try:
        return path.open("rb", buffering=0)
    except FileNotFoundError as error:
        raise _missing(storage, shard) from error
    except OSError as error:
        raise StorageError(f"cannot read {_name(storage, shard)}: {error.strerror}") from error


def _check(storage: Storage, shard: ShardPart, file: FileIO) -> None:
    found = DIGEST_PREFIX + hashlib.file_digest(file, "sha256").hexdigest()
    if found != shard.sha256:
        size = os.fstat(file.fileno()).st_size
        file.close()
        raise IntegrityError(
            f"{_name(storage, shard)} is not what the manifest names: {size} bytes of {found}, expected"
            f" {shard.bytes} bytes of {shard.sha256}; restore it from a copy or prepare the data again"
        )
    file.seek(0)


def _download(storage: Storage, shard: ShardPart, path: Path) -> None:
    try:
        storage.download(shard.key, path, shard.sha256)
    except ObjectNotFoundError as error:
        raise _missing(storage, shard) from error
    except IntegrityError as error:
        raise IntegrityError(f"{_name(storage, shard)} is not what the manifest names: {error.message}") from error


def _missing(storage: Storage, shard: ShardPart) -> ObjectNotFoundError:
    return ObjectNotFoundError(
        f"{_name(storage, shard)} is missing although the manifest names it;"
        " restore it from a copy or prepare the data again"
    )


def _name(storage: Storage, shard: ShardPart) -> str:
    return f"shard {storage.uri}/{shard.key} of chunk {shard.chunk}"
