"""What was recorded against what a replay made of it. Pure.

"The same bits" are: every step's loss, and the digests of every checkpoint's model and optimizer state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm360.release.selection import name_of
from llm360_trainer.replay.segment import Segment, StepLoss


@dataclass(frozen=True)
class Digests:
    """What a checkpoint's tensors hold: `model_digest` and `state_digest`."""

    model: str
    state: str


@dataclass(frozen=True)
class Replayed:
    """What a replay made.

    Attributes:
        losses: Of each step, by its number (finished steps after it).
        digests: Of each checkpoint, by its step.
        environment: What it ran on, in the form of `environment/aNNN.json`.
    """

    losses: Mapping[int, StepLoss]
    digests: Mapping[int, Digests]
    environment: Mapping[str, Any]


@dataclass(frozen=True)
class ComparedCheckpoint:
    """A checkpoint of the segment: as recorded, and as it was made here."""

    name: str
    step: int
    recorded: Digests
    found: Digests

    @property
    def is_same(self) -> bool:
        """Whether model and optimizer state are the same bits."""
        return self.recorded == self.found


@dataclass(frozen=True)
class Comparison:
    """A replay's outcome.

    Attributes:
        num_steps: Steps compared.
        different: Those whose loss is not the recorded bits, in order.
        largest_difference: Of two losses; 0 where all are the same, infinite where one of two is not finite.
        checkpoints: In order; the last is the segment's end where it was reached.
        environment: What differs between where it was trained and here, a sentence each.
    """

    num_steps: int
    different: tuple[int, ...]
    largest_difference: float
    checkpoints: tuple[ComparedCheckpoint, ...]
    environment: tuple[str, ...]

    @property
    def is_same(self) -> bool:
        """Whether every loss and every digest is the recorded one."""
        return not self.different and all(checkpoint.is_same for checkpoint in self.checkpoints)


def compare(segment: Segment, made: Replayed) -> Comparison:
    """Set a replay against the record.

    Args:
        segment: As recorded.
        made: Every step of it; checkpoints at least where the segment ends.
    """
    different = tuple(step for step, loss in segment.losses.items() if not is_same_loss(loss, made.losses[step]))
    checkpoints = [
        ComparedCheckpoint(
            name_of(known),
            known.step,
            Digests(known.body.digests.model, known.body.digests.state),
            made.digests[known.step],
        )
        for known in segment.checkpoints
        # One that an attempt before made only to resume from may not be due with this attempt's settings.
        if known.step in made.digests or known.name == segment.end.name
    ]
    return Comparison(
        num_steps=len(segment.losses),
        different=different,
        largest_difference=max((_distance(segment.losses[step], made.losses[step]) for step in different), default=0.0),
        checkpoints=tuple(checkpoints),
        environment=environment_differences(segment.environment, made.environment),
    )


def is_same_loss(recorded: StepLoss, made: StepLoss) -> bool:
    """Whether two records of a step's update are the same bits; a step without an update has no loss to compare."""
    return recorded.skipped == made.skipped and (
        recorded.skipped or recorded.loss == made.loss or (math.isnan(recorded.loss) and math.isnan(made.loss))
    )


def _distance(recorded: StepLoss, made: StepLoss) -> float:
    distance = abs(recorded.loss - made.loss)
    return distance if math.isfinite(distance) else math.inf


def environment_differences(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> tuple[str, ...]:
    """What of two environments may decide bits and differs, a sentence each; host names and packages do not count."""
    before, now = _deciding(recorded), _deciding(here)
    return tuple(
        f"{name}: {before.get(name, 'none')} recorded, {now.get(name, 'none')} here"
        for name in [*before, *(name for name in now if name not in before)]
        if before.get(name) != now.get(name)
    )


def _deciding(environment: Mapping[str, Any]) -> dict[str, str]:
    """The parts of an environment that may decide bits, by a name for people."""
    ranks = environment.get("ranks", [])
    facts = {
        "source": environment.get("code", {}).get("source_digest"),
        "Python": environment.get("python"),
        **environment.get("libraries", {}),
        "ranks": environment.get("world_size"),
        "devices": ", ".join(sorted({str(rank.get("device")) for rank in ranks})),
        "threads of a rank": ", ".join(sorted({str(rank.get("threads")) for rank in ranks})),
    }
    return {name: str(value) for name, value in facts.items() if value is not None}
