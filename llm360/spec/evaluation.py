"""`spec.evaluation`: what is measured on published checkpoints, on which pods, how many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, StringConstraints

from llm360.spec.base import MAX_STEPS, Section, Uri, optional, setting
from llm360.spec.cluster import Pods

TaskName = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]

AnalysisName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-_a-z0-9]*[a-z0-9])?$")]


class Task(Section):
    """One task of the evaluation harness."""

    name: TaskName = setting("Name of the task in lm-evaluation-harness, for example arc_challenge.")
    shots: int | None = optional(
        "Solved examples in the prompt. Unset: the task's own number.", unit="examples", ge=0, le=100
    )

    @property
    def label(self) -> str:
        """As `llm360 eval --tasks` writes it: `arc_challenge:25`, or the name alone."""
        return self.name if self.shots is None else f"{self.name}:{self.shots}"


class Evaluation(Pods):
    """What is measured, of which checkpoints, and the pods that do it: one per checkpoint, beside the training."""

    tasks: tuple[Task, ...] = setting(
        "Tasks in their order. Empty: no evaluation.",
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    analyses: tuple[AnalysisName, ...] = setting(
        "Analyses of each checkpoint after its tasks, by the names that llm360 analyze has. Empty: none.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    every_checkpoints: int = setting(
        "Every so many published checkpoints are evaluated, and always the last.", unit="checkpoints", ge=1, le=100_000
    )
    checkpoints: tuple[Annotated[int, Field(ge=0, le=MAX_STEPS)], ...] | None = optional(
        "Steps of the published checkpoints that are evaluated, and no others. Empty or unset: by everyCheckpoints.",
        unit="steps",
        max_length=4096,
    )
    gpus: int | None = optional(
        "GPUs of an evaluation pod. Unset: 1 with cluster.workers.device cuda, else 0.", unit="GPUs", ge=0, le=64
    )
    max_running: int = setting(
        "Most evaluation pods of the run at a time. The operator may have a bound for all runs together.",
        unit="pods",
        ge=1,
        le=1000,
    )
    retries: int = setting(
        "How often an evaluation that failed is tried again. Bad input (exit code 2) is not, and a pod that is lost"
        " with its node does not count.",
        unit="retries",
        ge=0,
        le=100,
    )
    mirror: Uri | None = optional(
        "Where task data is read from, as llm360 eval mirror has filled it; for clusters without internet. Unset: the"
        " hub."
    )

    def due(self, steps: Sequence[int], *, is_complete: bool) -> tuple[int, ...]:
        """Which published checkpoints are to be evaluated.

        Args:
            steps: Of all published checkpoints so far, ascending.
            is_complete: Whether the run has published its last.

        Returns:
            Their steps, ascending.
        """
        if self.checkpoints:
            return tuple(step for step in steps if step in self.checkpoints)
        chosen = tuple(steps[self.every_checkpoints - 1 :: self.every_checkpoints])
        is_last_left_out = is_complete and steps and steps[-1] not in chosen[-1:]
        return (*chosen, steps[-1]) if is_last_left_out else chosen
