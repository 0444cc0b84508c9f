"""Whether a store can be written to, and whether it can carry a ledger."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator

from llm360.errors import ObjectExistsError, ObjectNotFoundError, StorageError, StoreUnusableError
from llm360.storage.base import Storage


def probe_write(storage: Storage, key: str) -> None:
    """Write one key; nothing stays behind.

    Args:
        storage: The store in question.
        key: Where to try; a random ending is added, so that probes do not meet.

    Raises:
        StoreUnusableError: there is no such bucket, or it takes no write.
        StorageError: the store fails.
    """
    with _passing(storage, key) as passing:
        storage.put(passing, b"probe")


def probe_conditional_create(storage: Storage, key: str) -> None:
    """Write one key twice and expect the second write to be refused; nothing stays behind.

    Args:
        storage: The store in question.
        key: Where to try; a random ending is added, so that probes do not meet.

    Raises:
        StoreUnusableError: there is no such bucket (BucketMissing); the store accepted both writes
            (ConditionalCreateUnsupported), or none at all.
    """
    with _passing(storage, key) as passing:
        # Refused here means that an answer was lost and the repeated request found its own bytes: honoured.
        with contextlib.suppress(ObjectExistsError):
            storage.create(passing, b"first")
        try:
            storage.create(passing, b"second")
        except ObjectExistsError:
            return
    where = f" at {storage.options.endpoint}" if storage.options.endpoint else ""
    raise StoreUnusableError(
        f"{storage.uri}{where} does not honour conditional writes: it replaced an object that was to be created only"
        " where absent, so two writers could both own the run; use a store that honours 'If-None-Match: *'"
        " (Amazon S3, Ceph, MinIO, SeaweedFS …) or a folder",
        reason="ConditionalCreateUnsupported",
    )


@contextlib.contextmanager
def _passing(storage: Storage, key: str) -> Iterator[str]:
    """A key like the given one that is gone at the end of the block."""
    key = f"{key}-{secrets.token_hex(8)}"
    # Read first: some servers make a bucket that is not there at the first write, and a mistyped name would never show.
    with contextlib.suppress(ObjectNotFoundError):
        storage.get(key)
    try:
        yield key
    finally:
        # Some buckets forbid deleting; a few stray bytes are no reason to refuse them.
        with contextlib.suppress(StorageError):
            storage.delete(key)
