"""Files that are there whole or not at all, and a sentence for everything a file system refuses.

A write goes to a temporary name in the folder of its destination, is fsynced, and takes its final name in one
step; the folder is fsynced after that, so that the name survives a power failure too.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from llm360.errors import StorageError, StoreUnusableError

TEMPORARY_PREFIX = ".llm360-tmp-"

# Attempts to find the folder of a new file still there: another process may remove it while it is empty.
FOLDER_ATTEMPTS = 20
# Links that Linux follows from one path.
LONGEST_CHAIN = 40


def is_temporary(name: str) -> bool:
    """Whether the file name is that of an unfinished write, which no reader may see."""
    return name.startswith(TEMPORARY_PREFIX)


def open_temporary(folder: Path) -> tuple[int, Path]:
    """A new file for reading and writing, under a temporary name in `folder`, which is made if missing."""
    for attempt in range(FOLDER_ATTEMPTS):
        make_folders(folder)
        path = folder / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), path
        except FileNotFoundError:
            if attempt == FOLDER_ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


@contextlib.contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[int, Path]]:
    """`open_temporary`, closed and removed at the end unless it got its final name."""
    fd, path = open_temporary(folder)
    try:
        yield fd, path
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte at `offset`; a single `pwrite` may stop short."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def replace_durably(fd: int, temporary: Path, final: Path) -> None:
    """Give the temporary file its final name, replacing what was there, so that a power failure undoes neither."""
    os.fsync(fd)
    temporary.replace(final)
    sync_folder(final.parent)


def link_durably(fd: int, temporary: Path, final: Path) -> None:
    """Give the temporary file its final name only where that is free. Raises `FileExistsError`.

    A hard link and not `O_EXCL` on the final name: that would show a file without its bytes after a crash.
    """
    os.fsync(fd)
    os.link(temporary, final)
    sync_folder(final.parent)


def write_file(path: Path, data: bytes) -> None:
    """Write a file that the user named, whole or not at all: what was there stays until the new one is complete.

    A link is followed, and a file that is there keeps its rights. A device or pipe is written to and stays what it is;
    so is an open file (`/dev/stdout`), behind what was written to it before.

    Raises:
        StoreUnusableError: the disk is full, the folder may not be written, or the path is that of a folder.
        StorageError: the file system refuses otherwise.
    """
    try:
        if (opened := _open_file(path)) is not None:
            with open(os.dup(opened), "wb") as out:  # noqa: PTH123 - opened anew it would be written from its beginning
                out.write(data)
        elif path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
        else:
            _replace(path.resolve(), data)
    except OSError as error:
        raise explain(error, path, "write") from error


def _replace(final: Path, data: bytes) -> None:
    with temporary_file(final.parent) as (fd, temporary):
        with contextlib.suppress(FileNotFoundError):
            os.fchmod(fd, stat.S_IMODE(final.stat().st_mode))  # before it holds what was to be kept private
        write_all(fd, data, 0)
        replace_durably(fd, temporary, final)


def _open_file(path: Path) -> int | None:
    """The descriptor that the path stands for: `/dev/stdout`, `/dev/fd/3`, or a link to one of them."""
    for _ in range(LONGEST_CHAIN):
        path = path.parent.resolve() / path.name
        if path.parent == Path("/proc/self/fd").resolve() and path.name.isdecimal():
            return int(path.name)
        if not path.is_symlink():
            return None
        path = path.parent / path.readlink()
    return None


def write_in_place(path: Path, data: bytes) -> None:
    """Write a file that must stay the file it is: a device, or one that Kubernetes mounts.

    Raises:
        StorageError: the file system refuses.
    """
    try:
        path.write_bytes(data)
    except OSError as error:
        raise explain(error, path, "write") from error


def make_folders(folder: Path) -> None:
    """Make the folder and its parents, each made durable in its own parent."""
    if folder.is_dir():
        return
    make_folders(folder.parent)
    with contextlib.suppress(FileExistsError):
        folder.mkdir()
        sync_folder(folder.parent)
    if not folder.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))


def sync_folder(folder: Path) -> None:
    """Make the names in the folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems cannot fsync a folder; their renames are durable by themselves.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(fd)


def explain(error: OSError, path: Path, doing: str) -> StorageError:
    """The sentence for a file system's refusal.

    Args:
        error: What the system call said.
        path: The file or folder it was about.
        doing: `read` or `write`, for the sentence.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreUnusableError(
            f"cannot write {path}: {_free_space(path)}; free some space or choose another folder", reason="DiskFull"
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = "NotWritable" if doing == "write" else "NotReadable"
        return StoreUnusableError(
            f"cannot {doing} {path}: {_sentence(error)}; give this user (id {os.geteuid()}) the right to,"
            " or choose another folder",
            reason=reason,
        )
    if error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        return StoreUnusableError(
            f"cannot {doing} {path}: {_obstacle(path)}; remove it or choose another folder", reason="NotADirectory"
        )
    if error.errno == errno.ENAMETOOLONG:
        return StoreUnusableError(f"cannot {doing} {path}: the name is too long", reason="InvalidKey")
    return StorageError(f"cannot {doing} {path}: {_sentence(error)}")


def _sentence(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _free_space(path: Path) -> str:
    """How full the disk that holds the path is, in words."""
    existing = next(folder for folder in (path, *path.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    return f"the disk of {existing} is full, or this user's quota is spent ({free / 2**20:.1f} MiB free)"


def _obstacle(path: Path) -> str:
    """Which part of the path is a file where a folder is needed, or the other way round."""
    for part in (*reversed(path.parents), path):
        if part.is_dir():
            continue
        return f"{part} is a file, not a folder"
    return f"{path} is a folder, not a file"
