"""`spec.checkpoints`: which checkpoints are published (identity), and which are kept for resuming (operations)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llm360.spec.base import MAX_STEPS, Section, optional, setting


class CheckpointSchedule(Section):
    """After which steps a checkpoint is published: any of these, and always the last step of a stage."""

    initial: bool = setting("Whether the model is published before its first step.")
    every_chunk: bool = setting("Whether a checkpoint follows the last step of each data chunk (Amber).")
    every_steps: int | None = optional(
        "A checkpoint after every so many steps of a stage (CrystalCoder 1500). Unset: none.",
        unit="steps",
        ge=1,
        le=MAX_STEPS,
    )
    steps: tuple[Annotated[int, Field(ge=1, le=MAX_STEPS)], ...] = setting(
        "Finished steps of the run after which a checkpoint follows (Pythia: 1, 2, 4 … 512), ascending.",
        unit="steps",
        max_length=1024,
    )

    def publishes(
        self, step: int, *, stage_step: int, every_steps: int | None, is_chunk_end: bool, is_stage_end: bool
    ) -> bool:
        """Whether a checkpoint is published after a step.

        Args:
            step: Finished optimizer steps of the run; 0 is the model before its first step.
            stage_step: Finished optimizer steps of the stage.
            every_steps: The stage's own interval, else `every_steps` (`ResolvedStage.checkpoint_every`).
            is_chunk_end: The step was its chunk's last.
            is_stage_end: The step was its stage's last.
        """
        if step == 0:
            return self.initial
        return (
            is_stage_end
            or (self.every_chunk and is_chunk_end)
            or (every_steps is not None and stage_step % every_steps == 0)
            or step in self.steps
        )


class Checkpoints(Section):
    """dtype and schedule say what is published and belong to the run's identity; the others may change."""

    dtype: Literal["float32", "bfloat16"] = setting("Of the published model's numbers; the state is always float32.")
    schedule: CheckpointSchedule = setting("After which steps a checkpoint is published.")
    resume_every: int | None = optional(
        "Between published checkpoints one for resuming is written after every so many steps of the run; the last two"
        " stay. It bounds the work that a crash costs. Unset: none.",
        unit="steps",
        ge=1,
        le=MAX_STEPS,
    )
    keep_state: int | None = optional(
        "Number of newest published checkpoints whose optimizer state is kept; older ones keep the model only, 0 keeps"
        " none, each removal is in the ledger first. Unset: all.",
        unit="checkpoints",
        ge=0,
        le=1_000_000,
    )
