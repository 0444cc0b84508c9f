"""Where a stage lies in its run: its first and last step, the predictions before each, the checkpoints between."""

from __future__ import annotations

from abc import ABC, abstractmethod

from llm360.data.order import StageOrder
from llm360.spec.checkpoints import CheckpointSchedule


class StageSteps(ABC):
    """What the stage of a preset and that of a run under way have in common."""

    first_step: int
    """Finished steps of the run when the stage begins."""
    num_steps: int
    """Its steps."""
    first_tokens: int
    """Predictions of the run when the stage begins."""
    checkpoint_every: int | None
    """A checkpoint follows every so many of its steps; None: none for that reason."""
    order: StageOrder | None
    """Which rows each step reads; None where the data's chunks are not known."""

    @property
    @abstractmethod
    def step_tokens(self) -> int:
        """Predictions in the rows of one step."""

    @property
    def last_step(self) -> int:
        """Finished steps of the run when the stage ends."""
        return self.first_step + self.num_steps

    @property
    def tokens(self) -> int:
        """Predictions of the stage."""
        return self.num_steps * self.step_tokens

    def tokens_after(self, step: int) -> int:
        """Predictions of the run after `step` finished steps of the run, which lie in this stage."""
        return self.first_tokens + (step - self.first_step) * self.step_tokens

    def publishes_after(self, schedule: CheckpointSchedule, step: int) -> bool:
        """Whether the schedule publishes a checkpoint after `step` finished steps of the run (0: before the first)."""
        stage_step = step - self.first_step
        return schedule.publishes(
            step,
            stage_step=stage_step,
            every_steps=self.checkpoint_every,
            is_chunk_end=self.order is not None and self.order.is_chunk_end(stage_step),
            is_stage_end=step == self.last_step,
        )
