"""Giving up parts of checkpoints: a `prune` entry first, then the files.

What may go is decided by pure functions over the history. The last checkpoint that training could go on from
always stays until the run is complete.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from llm360.errors import InputError
from llm360.release.entries import Prune
from llm360.release.history import CheckpointEntry, History
from llm360.release.ledger import Ledger
from llm360.release.writer import TrainingWriter
from llm360.storage.base import Storage

Part = Literal["model", "state"]
PARTS: tuple[Part, ...] = ("model", "state")


class Removal(NamedTuple):
    """Parts of a checkpoint that may go, and why."""

    checkpoint: CheckpointEntry
    parts: tuple[Part, ...]
    reason: str


def plan_retention(history: History, *, keep_resume: int = 2, keep_state: int | None = None) -> list[Removal]:
    """What the run's own policy gives up now, oldest first.

    Args:
        history: Of the run.
        keep_resume: How many of the newest resume checkpoints (those not published) stay.
        keep_state: How many of the newest published checkpoints keep their optimizer state; None: all.

    Returns:
        Removals; a checkpoint already pruned is not among them.
    """
    kept_resume = _newest([known.name for known in history.branch if not known.body.published], keep_resume)
    kept_state = _newest([known.name for known in history.branch if known.body.published], keep_state)
    needed = _needed_to_resume(history)
    wanted: list[Removal] = []
    for checkpoint in history.all_checkpoints.values():
        name, body = checkpoint.name, checkpoint.body
        if name == needed:
            continue
        if not body.published and name not in kept_resume:
            wanted.append(Removal(checkpoint, PARTS, "a resume checkpoint that newer ones replace"))
        elif body.published and keep_state is not None and name not in kept_state:
            wanted.append(Removal(checkpoint, ("state",), f"the newest {keep_state} published keep their state"))
    return [left for removal in wanted if (left := _still_there(history, removal)) is not None]


def apply_retention(writer: TrainingWriter, *, keep_resume: int = 2, keep_state: int | None = None) -> list[Removal]:
    """Carry out the run's policy: for each removal the entry first, then the files.

    Call it after a checkpoint is committed. Safe to call again after `StorageUnavailableError`; files that an
    interruption left behind go with `llm360 gc`.

    Raises:
        FencedError: a newer attempt owns the run; nothing more was removed.
    """
    removals = plan_retention(writer.history(), keep_resume=keep_resume, keep_state=keep_state)
    for removal in removals:
        writer.prune(removal.checkpoint, removal.parts, removal.reason)
        delete_parts(writer.ledger.storage, writer.history(), removal.checkpoint, removal.parts)
    return removals


def prune_by_hand(ledger: Ledger, checkpoint: CheckpointEntry, parts: Sequence[Part], reason: str) -> Removal | None:
    """Give up parts of a checkpoint because a person asks: the entry, then the files.

    Returns:
        What was removed now; None where all of it had been pruned before.

    Raises:
        InputError: training could not go on without it.
    """
    found: list[Removal] = []

    def build(history: History) -> Prune:
        _refuse_needed(history, checkpoint, parts)
        removal = _still_there(history, Removal(checkpoint, tuple(parts), reason))
        found[:] = [removal] if removal else []
        if removal is None:
            raise _NothingToDo
        return Prune(step=checkpoint.step, checkpoint=checkpoint.name, parts=removal.parts, reason=reason)

    with contextlib.suppress(_NothingToDo):
        ledger.append(build)
    # Also where the entry was there before: an interruption may have left files.
    delete_parts(ledger.storage, ledger.history(), checkpoint, parts)
    return found[0] if found else None


def delete_parts(storage: Storage, history: History, checkpoint: CheckpointEntry, parts: Iterable[Part]) -> None:
    """Delete the files of parts that a prune entry names: all that lies in their folders.

    An attempt that made a checkpoint again, after a fallback, did so in the same folder: files that another
    checkpoint still has stay.
    """
    others = [
        known.name
        for known in history.all_checkpoints.values()
        if known.body.prefix == checkpoint.body.prefix and known.name != checkpoint.name
    ]
    for part in parts:
        if any(part not in history.pruned_parts(name) for name in others):
            continue
        for info in list(storage.list(f"{checkpoint.body.prefix}/{part}/")):
            storage.delete(info.key)


def _newest(names: list[str], count: int | None) -> set[str]:
    """The last `count` of the names; None: all."""
    return set(names if count is None else names[max(0, len(names) - count) :])


def _needed_to_resume(history: History) -> str | None:
    return None if history.complete else history.resume_point().name


def _refuse_needed(history: History, checkpoint: CheckpointEntry, parts: Sequence[Part]) -> None:
    if "state" in parts and checkpoint.name == _needed_to_resume(history):
        raise InputError(
            f"the state of step {checkpoint.step} is what training would go on from, and the run is not complete;"
            " prune an older checkpoint, or wait for the next one"
        )


def _still_there(history: History, removal: Removal) -> Removal | None:
    """The removal without the parts that were pruned before; None where nothing is left."""
    gone = history.pruned_parts(removal.checkpoint.name)
    parts = tuple(part for part in removal.parts if part not in gone)
    return removal._replace(parts=parts) if parts else None


class _NothingToDo(Exception):  # noqa: N818  (not an error)
    pass
