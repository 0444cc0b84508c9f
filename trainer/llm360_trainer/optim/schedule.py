"""Learning rate as a pure function of the step, in Python's floats: the same on every machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """A straight warm-up from 0, then a decay.

    Raises:
        ValueError: Steps or rates that make no schedule.
    """

    kind: Literal["cosine", "linear", "constant"]
    peak: float
    """Learning rate at the end of the warm-up."""
    end: float = 0.0
    """Learning rate at `total_steps` and after; a constant schedule ignores it."""
    warmup_steps: int = 0
    total_steps: int = 0
    """Step at which the decay ends, warm-up included (Amber 274,320; CrystalCoder's stage 2: 86 + 214,301)."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0 or self.peak < 0 or self.end < 0:
            raise ValueError(f"warmup_steps, peak and end must be at least 0, found {self}")
        if self.kind != "constant" and self.total_steps <= self.warmup_steps:
            raise ValueError(
                f"the decay ends at step {self.total_steps}, before the warm-up of {self.warmup_steps} steps is over; "
                "raise total_steps or lower warmup_steps"
            )


def learning_rate(step: int, schedule: Schedule) -> float:
    """Learning rate of the update that follows `step` finished ones.

    The order of operations is that of Amber's `main.py`, so that its numbers come out to the last bit.

    Args:
        step: Finished optimizer steps of the schedule's stage, from 0.
        schedule: The stage's schedule.
    """
    if step < schedule.warmup_steps:
        return schedule.peak * step / schedule.warmup_steps
    if schedule.kind == "constant":
        return schedule.peak
    if step >= schedule.total_steps:
        return schedule.end
    progress = (step - schedule.warmup_steps) / (schedule.total_steps - schedule.warmup_steps)
    share = 0.5 * (1.0 + math.cos(math.pi * progress)) if schedule.kind == "cosine" else 1.0 - progress
    return schedule.end + share * (schedule.peak - schedule.end)
