"""Whole files to and from a store: parts in parallel, bounded memory, sha256 in the same pass.

Hashing needs the bytes in order, the network wants several parts at a time. So one thread takes the parts in
order and hashes them while a small pool carries them, and never more than `parallel` of them exist:

    upload     file ──read, hash──▶ part ──pool──▶ PartWriter.write ┄┄▶ commit
    download   get_range ──pool──▶ part ──in order──▶ hash, write ┄┄▶ rename
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from llm360.canonical import DIGEST_PREFIX
from llm360.errors import InputError, IntegrityError
from llm360.storage import local

if TYPE_CHECKING:
    from llm360.storage.base import Storage

T = TypeVar("T")

# Bytes hashed and written at a time: large enough that Python costs nothing, small enough to stay in the cache.
HASHED_BYTES = 1024 * 1024


class PartWriter(ABC):
    """An object in the making, invisible before `commit`; `abort` follows where a write or the commit failed."""

    part_bytes: int
    """Size of every part but the last, which may be shorter."""

    @abstractmethod
    def write(self, index: int, data: bytes) -> None:
        """Store part `index` (from 0); called from several threads, in any order."""

    @abstractmethod
    def commit(self, digest: str) -> None:
        """Make the object visible. Raises `IntegrityError` where the store holds something else than `digest` names."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what is not committed, as far as the store answers."""


def upload(storage: Storage, key: str, path: Path) -> str:
    """See `Storage.upload`."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", reason="FileUnreadable") from error
    hasher = hashlib.sha256()
    with file:
        size = os.fstat(file.fileno()).st_size
        writer = storage.open_parts(key, size)

        def parts() -> Iterator[Callable[[], None]]:
            for index, start in enumerate(range(0, size, writer.part_bytes)):
                data = file.read(min(writer.part_bytes, size - start))
                hasher.update(data)
                yield partial(writer.write, index, data)

        try:
            for _ in in_order(parts(), storage.options.parallel):
                pass
            found = os.fstat(file.fileno()).st_size
            if file.tell() != size or found != size:
                raise IntegrityError(
                    f"{path} changed while it was uploaded: {size} bytes at first, then {found};"
                    " write it to its end before uploading it"
                )
            digest = DIGEST_PREFIX + hasher.hexdigest()
            writer.commit(digest)
        except BaseException:
            writer.abort()
            raise
    return digest


def download(storage: Storage, key: str, path: Path, digest: str | None) -> None:
    """See `Storage.download`."""
    before = storage.stat(key) if digest is None else None
    hasher = hashlib.sha256()
    try:
        with local.temporary_file(path.parent) as (fd, temporary):
            size = 0
            for chunk in storage.iter_bytes(key, min(HASHED_BYTES, storage.options.part_bytes)):
                hasher.update(chunk)
                local.write_all(fd, chunk, size)
                size += len(chunk)
            found = DIGEST_PREFIX + hasher.hexdigest()
            if digest is not None and found != digest:
                raise IntegrityError(
                    f"{storage.uri}/{key} is not what was recorded: {size} bytes of {found}, expected {digest};"
                    " restore the object from a copy, or do without it"
                )
            if before is not None and storage.stat(key) != before:
                raise IntegrityError(f"{storage.uri}/{key} was replaced while it was read; read it again")
            local.replace_durably(fd, temporary, path)
    except OSError as error:
        raise local.explain(error, path, "write") from error


def read_ahead(storage: Storage, key: str, size: int, chunk_bytes: int) -> Iterator[bytes]:
    """The `size` bytes of an object in order, in chunks of `chunk_bytes`.

    They are asked for in ranges of whole chunks of about `part_bytes`, of which `parallel` are under way: small
    chunks suit the processor's cache, large ranges the network.

    Raises:
        IntegrityError: the object became shorter meanwhile.
    """
    range_bytes = chunk_bytes * max(1, storage.options.part_bytes // chunk_bytes)
    starts = range(0, size, range_bytes)
    reads = (partial(storage.get_range, key, start, min(range_bytes, size - start)) for start in starts)
    for start, data in zip(starts, in_order(reads, storage.options.parallel), strict=True):
        if len(data) != min(range_bytes, size - start):
            raise IntegrityError(
                f"{storage.uri}/{key} ends after {start + len(data)} bytes although it had {size}:"
                " it was replaced while it was read, or the store lost a part of it"
            )
        for offset in range(0, len(data), chunk_bytes):
            yield data[offset : offset + chunk_bytes]


def in_order(calls: Iterable[Callable[[], T]], parallel: int) -> Iterator[T]:
    """Results of the calls in their order, with at most `parallel` calls begun and not yet handed out."""
    pending: deque[Future[T]] = deque()
    with ThreadPoolExecutor(parallel, thread_name_prefix="llm360-storage") as pool:
        try:
            for call in calls:
                pending.append(pool.submit(call))
                if len(pending) == parallel:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # the `with` waits for those that run
