"""Litter: what older attempts wrote and no entry of the ledger names, and what prunes and crashes left behind.

Three rules keep this safe while a run is going on: nothing that the ledger names is touched; nothing of the
newest attempt is touched, it may be about to be named; and nothing younger than a day.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Literal, NamedTuple

from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.release.checkpoint import load_checkpoint_manifest
from llm360.release.entries import Metrics
from llm360.release.history import CheckpointEntry, History
from llm360.release.layout import (
    CHECKPOINTS_PREFIX,
    METRICS_PREFIX,
    attempt_of,
    manifest_key,
)
from llm360.storage.base import ObjectInfo, Storage, UnfinishedWrite

DAY_SECONDS = 86_400.0


class Litter(NamedTuple):
    """An object that may go."""

    info: ObjectInfo | UnfinishedWrite
    why: Literal["named by no entry", "pruned", "unfinished write"]


def find_litter(
    storage: Storage, history: History, *, older_than: float = DAY_SECONDS, now: float | None = None
) -> list[Litter]:
    """All litter of a release.

    Args:
        storage: Rooted at the release; must be able to list.
        history: Read before; what is appended meanwhile belongs to the newest attempt, which is left alone.
        older_than: Seconds since an object was last written.
        now: Seconds since the epoch; the present where not given.
    """
    limit = (time.time() if now is None else now) - older_than
    named, pruned = _named_keys(storage, history)
    found = []
    for prefix in (CHECKPOINTS_PREFIX, METRICS_PREFIX):
        for info in storage.list(prefix + "/"):
            attempt = attempt_of(info.key)
            if info.key in named or info.modified > limit or attempt is None:
                continue
            if info.key in pruned:
                found.append(Litter(info, "pruned"))
            elif attempt < history.attempt:
                found.append(Litter(info, "named by no entry"))
    found += [
        Litter(write, "unfinished write")
        for write in storage.list_unfinished()
        if write.modified <= limit and (attempt_of(write.key) or 0) < history.attempt
    ]
    return found


def delete_litter(storage: Storage, litter: Iterable[Litter]) -> None:
    """Delete what `find_litter` found."""
    for item in litter:
        if isinstance(item.info, UnfinishedWrite):
            storage.delete_unfinished(item.info)
        else:
            storage.delete(item.info.key)


def _named_keys(storage: Storage, history: History) -> tuple[set[str], set[str]]:
    """Keys that the ledger names and keys whose parts were pruned."""
    named = {entry.body.key for entry in history.entries if isinstance(entry.body, Metrics)}
    pruned: set[str] = set()
    for checkpoint in history.all_checkpoints.values():
        kept, given_up = _checkpoint_keys(storage, checkpoint, history.pruned_parts(checkpoint.name))
        named |= kept
        pruned |= given_up
    return named, pruned - named


def _checkpoint_keys(storage: Storage, checkpoint: CheckpointEntry, gone: frozenset[str]) -> tuple[set[str], set[str]]:
    prefix = checkpoint.body.prefix
    kept = {manifest_key(prefix)}
    pruned: set[str] = set()
    try:
        manifest = load_checkpoint_manifest(storage, prefix, checkpoint.body.digests.manifest)
    except (ObjectNotFoundError, IntegrityError):
        # Which files the ledger means cannot be known, so all that lie there stay; `verify` names the fault.
        return {info.key for info in storage.list(prefix + "/")}, set()
    for file in manifest.files:
        (pruned if file.key.split("/")[0] in gone else kept).add(f"{prefix}/{file.key}")
    return kept, pruned
