"""Places for results, checked before the work whose results they take, and a folder that appears complete.

What only a write can show, a disk that fills up meanwhile, is one sentence too, and leaves nothing half-written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from llm360.errors import InputError, StoreUnusableError
from llm360.release.layout import LEDGER_PREFIX
from llm360.storage import Storage, local, open_storage
from llm360.storage.file import FileStorage
from llm360.storage.probe import probe_write


def check_new_file(path: Path) -> None:
    """Refuse a file that cannot be made. One that is there is for the caller to compare.

    Raises:
        StorageError: the path is a folder's, or its own folder cannot be written or made.
    """
    with _explained(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists():
            _check_writable(path.parent)


def check_new_folder(out: Path) -> None:
    """Refuse a folder that cannot be made, or that holds something but what an ended process left unfinished there.

    Raises:
        InputError: it holds something, or is no folder.
        StorageError: it cannot be written or made.
    """
    with _explained(out):
        if os.path.lexists(out) and not (out.is_dir() and all(map(_is_unfinished, out.iterdir()))):
            raise InputError(f"--out {out} exists already; give a folder that does not, or an empty one")
        _check_writable(out if out.is_dir() else out.parent)


def check_space(out: Path, num_bytes: int) -> None:
    """Refuse a folder whose disk has not that much room.

    Raises:
        StoreUnusableError: it has less.
    """
    disk = shutil.disk_usage(_nearest(out))
    if num_bytes > disk.free and disk.total:  # some file systems do not tell
        raise StoreUnusableError(
            f"cannot write {out}: its weights take {num_bytes / 2**20:,.1f} MiB, and the disk of {_nearest(out)} has"
            f" {disk.free / 2**20:,.1f} MiB free; free some space or choose another folder",
            reason="DiskFull",
        )


@contextlib.contextmanager
def appearing_folder(out: Path) -> Iterator[Path]:
    """A hidden folder to be filled, which becomes `out` at the end of the block. An error leaves nothing of it.

    An empty folder that is there takes the contents and stays itself: it may be a mount, a link, or where one stands.

    Raises:
        StorageError: the file system refuses, also within the block.
    """
    made = [folder for folder in out.parents if not folder.exists()]
    is_there = out.is_dir()
    unfinished = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if is_there:
            _remove_unfinished(out)
        unfinished = Path(tempfile.mkdtemp(prefix=local.TEMPORARY_PREFIX, dir=out if is_there else out.parent))
        yield unfinished
        unfinished.chmod(0o755)
        if is_there:
            _move_contents(unfinished, out)
        else:
            unfinished.rename(out)
    except BaseException as error:
        # Explained first: the sentence says how full the disk is.
        explained = local.explain(error, out, "write") if isinstance(error, OSError) else None
        if unfinished is not None:
            shutil.rmtree(unfinished, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        if explained is not None:
            raise explained from error
        raise


def open_writable_release(uri: str) -> Storage:
    """The store of a release that results go into.

    Raises:
        StoreUnusableError: it can only be read.
    """
    storage = open_storage(uri)
    ledger = storage.root / LEDGER_PREFIX if isinstance(storage, FileStorage) else None
    if storage.uri.startswith(("http://", "https://")) or (
        ledger is not None and ledger.is_dir() and not os.access(ledger, os.W_OK)
    ):
        raise StoreUnusableError(
            f"{storage.uri} can only be read; results go into the release, so give a copy that is writable",
            reason="ReadOnly",
        )
    return storage


def open_writable(uri: str) -> Storage:
    """A store that takes a write: one is tried, and nothing of it stays.

    Raises:
        StoreUnusableError: it does not, or cannot be reached as it is named.
        StorageError: the store fails.
    """
    storage = open_storage(uri)
    if storage.uri.startswith(("http://", "https://")):
        raise StoreUnusableError(
            f"--out {storage.uri} can only be read; give a folder or s3://bucket/prefix", reason="ReadOnly"
        )
    probe_write(storage, "probe")
    return storage


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise local.explain(error, path, "write") from error


def _check_writable(folder: Path) -> None:
    """Make a nameless file in the folder, or in the nearest one that is there. Raises `OSError`."""
    with tempfile.TemporaryFile(dir=_nearest(folder)):
        pass


def _nearest(path: Path) -> Path:
    """The path itself, or the nearest of its parents that is there: a folder, or a file in the way."""
    return next((part for part in (path, *path.parents) if os.path.lexists(part)), path)


def _is_unfinished(path: Path) -> bool:
    return local.is_temporary(path.name)


def _remove_unfinished(folder: Path) -> None:
    """Remove what a process left that was ended at once; beside a new folder it could be another's, and stays."""
    for path in filter(_is_unfinished, list(folder.iterdir())):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _move_contents(folder: Path, to: Path) -> None:
    for path in sorted(folder.iterdir()):
        path.rename(to / path.name)
    folder.rmdir()
