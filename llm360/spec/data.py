"""`spec.data`: what the run reads, in one stage or several."""

from __future__ import annotations

from typing import Literal

from llm360.spec.base import MAX_STEPS, Name, Section, Uri, optional, setting
from llm360.spec.training import Schedule

Remainder = Literal["drop", "carry"]


class Stage(Section):
    """One stage of a run: its own data, and what differs from `data` and `training`."""

    name: Name = setting("Name of the stage, unique in the run; the release keeps its data under data/<name>.")
    uri: Uri | None = optional("Folder of the stage's manifest.json. Unset: data.uri, else data/<name> in the release.")
    recipe: Name | None = optional("Recipe that prepares the stage's data where it is missing. Unset: data.recipe.")
    chunks: int | None = optional(
        "Number of chunks that the recipe makes. Unset: data.chunks.", unit="chunks", ge=1, le=100_000
    )
    remainder: Remainder | None = optional("What becomes of a chunk's rows after whole batches. Unset: data.remainder.")
    batch_size: int | None = optional(
        "Sequences per optimizer step. Unset: training.batchSize.", unit="sequences", ge=1, le=2**24
    )
    steps: int | None = optional(
        "Most optimizer steps of the stage. Unset: training.steps.", unit="steps", ge=1, le=MAX_STEPS
    )
    schedule: Schedule | None = optional(
        "Learning rate; its steps count from the stage's first. What is unset comes from training.schedule."
    )


class Data(Section):
    """Prepared rows, or how they are prepared."""

    uri: Uri | None = optional(
        "Folder that holds the manifest.json of prepared data. Unset: data/<stage> inside the release (storage.uri)."
    )
    recipe: Name | None = optional(
        "Name of the recipe that prepares the data where the manifest is missing, for example python-stdlib. Unset: the"
        " data must be there."
    )
    chunks: int | None = optional("Number of chunks that the recipe makes.", unit="chunks", ge=1, le=100_000)
    remainder: Remainder = setting(
        "What becomes of a chunk's rows that do not fill a batch: drop never reads them (Amber), carry runs on into the"
        " next chunk (Pythia)."
    )
    stages: tuple[Stage, ...] = setting(
        "Stages in their order. A stage takes what it does not state from data and training, and from the preset's"
        " stage of the same name. Unset: one stage, stage1.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
