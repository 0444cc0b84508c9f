"""`spec.evaluation`: what is measured on published checkpoints."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from llm360.spec.base import Section, optional, setting

TaskName = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]


class Task(Section):
    """One task of the evaluation harness."""

    name: TaskName = setting("Name of the task in lm-evaluation-harness, for example arc_challenge.")
    shots: int | None = optional(
        "Solved examples in the prompt. Unset: the task's own number.", unit="examples", ge=0, le=100
    )


class Evaluation(Section):
    """Tasks, and how often they run."""

    tasks: tuple[Task, ...] = setting(
        "Tasks in their order. Empty: no evaluation.",
        max_length=64,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    every_checkpoints: int = setting(
        "Every so many published checkpoints are evaluated, and always the last.", unit="checkpoints", ge=1, le=100_000
    )
