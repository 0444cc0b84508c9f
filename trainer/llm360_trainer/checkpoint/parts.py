"""What the ranks tell the driver about the files they wrote, and how that becomes a manifest. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from llm360.errors import LLM360Error
from llm360.release.checkpoint import CheckpointManifest, FileRecord, TensorRecord, tensors_digest


class CheckpointIncompleteError(LLM360Error):
    """The parts at hand are no whole checkpoint."""

    default_reason = "CheckpointIncomplete"


class RankPart(BaseModel):
    """One rank's share of one checkpoint. `model_dump(mode="json")` and `model_validate` carry it between processes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    step: int
    """Finished optimizer steps that the checkpoint holds."""
    prefix: str
    """Folder of the checkpoint in the release, which names the attempt that wrote it."""
    rank: int
    world_size: int
    expected: tuple[str, ...]
    """Labels of all groups of the model; the same on every rank."""
    groups: tuple[str, ...]
    """Labels of the groups that this rank wrote."""
    files: tuple[FileRecord, ...]
    model: tuple[TensorRecord, ...]
    state: tuple[TensorRecord, ...]
    seconds: float
    """From the end of gathering to the end of the last upload, behind the following steps."""


def merge_parts(parts: Sequence[RankPart], *, tokens: int, attempt: int, config_digest: str) -> CheckpointManifest:
    """The manifest of a checkpoint from the parts of all its ranks, in any order.

    Args:
        parts: One from each rank, all of the same step.
        tokens: Tokens that the run has trained on at this step.
        attempt: The attempt that wrote it.
        config_digest: Of the resolved configuration.

    Raises:
        CheckpointIncompleteError: a rank's part or a group is missing, there twice, or of another checkpoint.
    """
    _check(parts)
    model = tuple(sorted((record for part in parts for record in part.model), key=lambda record: record.name))
    state = tuple(sorted((record for part in parts for record in part.state), key=lambda record: record.name))
    return CheckpointManifest(
        format="llm360-checkpoint/1",
        step=parts[0].step,
        tokens=tokens,
        attempt=attempt,
        world_size=parts[0].world_size,
        config_digest=config_digest,
        files=tuple(sorted((record for part in parts for record in part.files), key=lambda record: record.key)),
        model=model,
        state=state,
        model_digest=tensors_digest(model),
        state_digest=tensors_digest(state),
    )


def _check(parts: Sequence[RankPart]) -> None:
    """Refuse anything but exactly one part of each rank, and exactly one writer of each group, file and tensor."""
    if not parts:
        raise _incomplete("no rank has sent its part")
    first = parts[0]
    if len({(part.step, part.prefix, part.world_size, part.expected) for part in parts}) > 1:
        steps = ", ".join(f"rank {p.rank} of {p.world_size} at step {p.step} in {p.prefix}" for p in parts)
        raise _incomplete(f"the parts are of different checkpoints: {steps}")
    for what, found, wanted in (
        ("ranks", [part.rank for part in parts], list(range(first.world_size))),
        ("groups", [label for part in parts for label in part.groups], list(first.expected)),
    ):
        if sorted(found) != sorted(wanted):
            raise _incomplete(f"{what} {sorted(found)} are there instead of {sorted(wanted)}")
    for what, names in (
        ("file", [record.key for part in parts for record in part.files]),
        ("tensor", [record.name for part in parts for record in (*part.model, *part.state)]),
    ):
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise _incomplete(f"{what} {twice[0]} was written by two ranks")


def _incomplete(what: str) -> CheckpointIncompleteError:
    return CheckpointIncompleteError(
        f"the checkpoint is incomplete: {what}; it is not committed, the one before stays the newest"
    )
