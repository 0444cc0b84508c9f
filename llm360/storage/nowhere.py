"""A store that keeps nothing: for objects that are made for their digests alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

from llm360.errors import ObjectNotFoundError, StoreUnusableError
from llm360.storage.base import MIB, ObjectInfo, Storage, StorageOptions, UnfinishedWrite
from llm360.storage.transfer import PartWriter


class NowhereStorage(Storage):
    """Takes every write and is always empty.

    Args:
        options: As other stores'; only `parallel` is read.
    """

    uri = "nowhere:"

    def __init__(self, options: StorageOptions | None = None) -> None:
        self.options = options or StorageOptions()

    def get(self, key: str) -> bytes:
        """See `Storage.get`."""
        self._is_missing(key)

    def get_range(self, key: str, start: int, length: int) -> bytes:  # noqa: ARG002
        """See `Storage.get_range`."""
        self._is_missing(key)

    def put(self, key: str, data: bytes) -> None:
        """See `Storage.put`."""

    def create(self, key: str, data: bytes) -> None:  # noqa: ARG002
        """Refused: nobody could win.

        Raises:
            StoreUnusableError: always.
        """
        raise StoreUnusableError(f"'{key}' cannot be created where nothing is kept")

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:  # noqa: ARG002
        """See `Storage.list`."""
        return iter(())

    def stat(self, key: str) -> ObjectInfo:
        """See `Storage.stat`."""
        self._is_missing(key)

    def delete(self, key: str) -> None:
        """See `Storage.delete`."""

    def at(self, prefix: str) -> Storage:  # noqa: ARG002
        """See `Storage.at`."""
        return self

    def open_parts(self, key: str, size: int) -> PartWriter:  # noqa: ARG002
        """See `Storage.open_parts`."""
        return _Discard()

    def list_unfinished(self) -> Iterator[UnfinishedWrite]:
        """See `Storage.list_unfinished`."""
        return iter(())

    def delete_unfinished(self, write: UnfinishedWrite) -> None:
        """See `Storage.delete_unfinished`."""

    def _is_missing(self, key: str) -> NoReturn:
        raise ObjectNotFoundError(f"'{key}' is not there: nothing is kept")


class _Discard(PartWriter):
    part_bytes = 8 * MIB

    def write(self, index: int, data: bytes) -> None:
        pass

    def commit(self, digest: str) -> None:
        pass

    def abort(self) -> None:
        pass
