"""A folder as a store: `file:///path`."""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from llm360.errors import IntegrityError, ObjectExistsError, ObjectNotFoundError, StorageError, StoreUnusableError
from llm360.storage import local, transfer
from llm360.storage.base import (
    MIB,
    NotAFileError,
    ObjectInfo,
    Storage,
    StorageOptions,
    UnfinishedWrite,
    check_key,
    join_key,
)

# What `link` answers where the file system has no hard links.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class FileStorage(Storage):
    """Objects are files below `root`; an object is a file under its final name, anything else is ignored."""

    def __init__(self, root: Path, options: StorageOptions | None = None) -> None:
        self.root = root
        self.uri = root.as_uri()
        self.options = options or StorageOptions()
        self._made: tuple[Path, ...] | None = None
        """The root and the folders above it that this object's first write had to make, innermost first."""

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        with self._reading(key) as path, _open(path) as file:
            return file.read()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `Storage.get_range`."""
        with self._reading(key) as path, _open(path) as file:
            file.seek(start)
            return _read_up_to(file.fileno(), length)

    def iter_bytes(self, key: str, chunk_bytes: int = 8 * MIB) -> Iterator[bytes]:
        """See `Storage.iter_bytes`; the kernel reads ahead better than threads could."""
        with self._reading(key) as path, _open(path) as file:
            while chunk := _read_up_to(file.fileno(), chunk_bytes):
                yield chunk

    def put(self, key: str, data: bytes) -> None:
        """See `Storage.put`."""
        with self._writing(key) as path, local.temporary_file(path.parent) as (fd, temporary):
            local.write_all(fd, data, 0)
            local.replace_durably(fd, temporary, path)

    def create(self, key: str, data: bytes) -> None:
        """See `Storage.create`."""
        with self._writing(key) as path:
            # Before any byte is written: a key that is taken stays taken, so this needs no lock.
            if path.is_file():
                raise self._taken(key)
            with local.temporary_file(path.parent) as (fd, temporary):
                local.write_all(fd, data, 0)
                self._link(fd, temporary, path, key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """See `Storage.list`."""
        folder = prefix.rpartition("/")[0]
        if folder:
            check_key(folder)
        for info in self._walk(self.root / folder, folder):
            if info.key.startswith(prefix):
                yield info

    def stat(self, key: str) -> ObjectInfo:
        """See `Storage.stat`."""
        with self._reading(key) as path:
            found = path.stat()
            _check_regular(found.st_mode, path)
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def delete(self, key: str) -> None:
        """See `Storage.delete`; folders that become empty go too, as if they had never been.

        The root and those above it go only where this object made them: an empty folder of the user's stays.
        """
        self._remove(self._path(key))

    def list_unfinished(self) -> Iterator[UnfinishedWrite]:
        """See `Storage.list_unfinished`."""
        for info in self._walk(self.root, "", temporary=True):
            yield UnfinishedWrite(*info, upload="")

    def delete_unfinished(self, write: UnfinishedWrite) -> None:
        """See `Storage.delete_unfinished`."""
        path = self.root / write.key
        assert local.is_temporary(path.name), f"{path} is an object"
        self._remove(path)

    def at(self, prefix: str) -> FileStorage:
        """See `Storage.at`."""
        return FileStorage(self._path(prefix), self.options) if prefix else self

    def open_parts(self, key: str, size: int) -> transfer.PartWriter:
        """See `Storage.open_parts`."""
        with self._writing(key) as path:
            return _FileParts(path, size, min(self.options.part_bytes, transfer.HASHED_BYTES))

    def _path(self, key: str) -> Path:
        check_key(key)
        if any(map(local.is_temporary, key.split("/"))):
            raise StoreUnusableError(
                f"key {key!r} cannot be stored: names that start with '{local.TEMPORARY_PREFIX}' are unfinished writes",
                reason="InvalidKey",
            )
        return self.root / key

    def _remove(self, path: Path) -> None:
        try:
            path.unlink()
            local.sync_folder(path.parent)
        except (FileNotFoundError, NotADirectoryError):
            pass  # a write that failed may have left its folder all the same
        except OSError as error:
            raise local.explain(error, path, "write") from error
        below = itertools.takewhile(lambda folder: folder != self.root, path.parents)
        with contextlib.suppress(OSError):  # not empty, or not ours to remove
            for folder in (*below, *(self._made or ())):
                with contextlib.suppress(FileNotFoundError):
                    folder.rmdir()

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        try:
            yield path
        except (FileNotFoundError, IsADirectoryError) as error:
            raise self._missing(key) from error
        except NotADirectoryError as error:
            if self.root.exists() and not self.root.is_dir():
                raise local.explain(error, self.root / key, "read") from error
            raise self._missing(key) from error
        except OSError as error:
            if error.errno == errno.ENXIO:  # opened, a socket says so
                raise NotAFileError(f"{path} is no regular file") from error
            raise local.explain(error, path, "read") from error

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[Path]:
        path = self._path(key)
        if self._made is None:
            self._made = tuple(folder for folder in (self.root, *self.root.parents) if not folder.exists())
        try:
            yield path
        except OSError as error:
            raise local.explain(error, path, "write") from error

    def _link(self, fd: int, temporary: Path, path: Path, key: str) -> None:
        try:
            local.link_durably(fd, temporary, path)
        except FileExistsError as error:
            if path.is_dir():
                raise
            raise self._taken(key) from error
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            raise StoreUnusableError(
                f"the file system of {self.root} has no hard links ({error.strerror}), without which two writers could"
                " both believe to have written the same ledger entry; use a local disk, NFS or an S3 bucket",
                reason="ConditionalCreateUnsupported",
            ) from error

    def _walk(self, folder: Path, key: str, *, temporary: bool = False) -> Iterator[ObjectInfo]:
        """Files below the folder in the order of their keys: a folder sorts as its name and a slash."""
        try:
            with os.scandir(folder) as entries:
                found = sorted((entry.name + "/" * entry.is_dir(), entry) for entry in entries)
        except FileNotFoundError:
            return
        except NotADirectoryError as error:
            if folder == self.root:
                raise local.explain(error, folder, "read") from error
            return  # `a/b/` where `a/b` is an object
        except OSError as error:
            raise local.explain(error, folder, "read") from error
        for name, entry in found:
            if name.endswith("/"):
                yield from self._walk(folder / entry.name, join_key(key, entry.name), temporary=temporary)
            elif local.is_temporary(name) == temporary:
                with contextlib.suppress(FileNotFoundError):  # removed since the folder was read
                    status = entry.stat()
                    if stat.S_ISREG(status.st_mode):
                        yield ObjectInfo(join_key(key, name), status.st_size, status.st_mtime)

    def _missing(self, key: str) -> ObjectNotFoundError:
        return ObjectNotFoundError(f"{self.root / key} does not exist")

    def _taken(self, key: str) -> ObjectExistsError:
        return ObjectExistsError(f"{self.root / key} exists already, and only its first writer may write it")


class _FileParts(transfer.PartWriter):
    """Parts of a file, written side by side into one temporary file."""

    def __init__(self, path: Path, size: int, part_bytes: int) -> None:
        self.path = path
        self.size = size
        self.part_bytes = part_bytes
        self.fd, self.temporary = local.open_temporary(path.parent)

    def write(self, index: int, data: bytes) -> None:
        try:
            local.write_all(self.fd, data, index * self.part_bytes)
        except OSError as error:
            raise local.explain(error, self.path, "write") from error

    def commit(self, digest: str) -> None:
        stored = os.fstat(self.fd).st_size
        if stored != self.size:
            raise IntegrityError(f"{self.path} has {stored} bytes on disk, {self.size} of {digest} were written")
        try:
            local.replace_durably(self.fd, self.temporary, self.path)
        except OSError as error:
            raise local.explain(error, self.path, "write") from error
        os.close(self.fd)

    def abort(self) -> None:
        os.close(self.fd)
        with contextlib.suppress(OSError, StorageError):
            self.temporary.unlink(missing_ok=True)


def _open(path: Path) -> io.FileIO:
    """The file, to be read; a pipe that nobody writes to is not waited for."""
    file = io.FileIO(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "r")
    try:
        _check_regular(os.fstat(file.fileno()).st_mode, path)
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(mode: int, path: Path) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise NotAFileError(f"{path} is no regular file")


def _read_up_to(fd: int, length: int) -> bytes:
    """`length` bytes from where the file stands, fewer at its end; a single `read` stops at 2 GiB."""
    chunks: list[bytes] = []
    while length > 0 and (chunk := os.read(fd, length)):
        chunks.append(chunk)
        length -= len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
