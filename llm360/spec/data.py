"""`spec.data`: what the run reads, in one stage or several."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llm360.spec.base import MAX_EXACT, MAX_STEPS, Name, Section, Uri, optional, setting
from llm360.spec.training import Schedule

Remainder = Literal["drop", "carry"]
OptimizerState = Literal["carry", "reset"]
Share = Annotated[float, Field(gt=0, le=1e9)]


class FillInTheMiddle(Section):
    """How a recipe turns documents of code around, so that a model learns to fill gaps (arXiv:2207.14255)."""

    rate: float = setting(
        "Share of the documents that are cut in three (CrystalCoder: 0.9 in stage 2, 0.3 in stage 3).",
        unit="ratio",
        gt=0,
        le=1,
    )
    spm_rate: float = setting(
        "Share of these whose suffix stands first (SPM); the others begin with their prefix (PSM). CrystalCoder: 0.5.",
        unit="ratio",
        ge=0,
        le=1,
    )


class HeldOut(Section):
    """Documents that recipes keep out of all rows, and beside them, so that perplexity is measured on unseen text."""

    share: float = setting(
        "Share of the documents, chosen by their text and the seed alone, so that equal texts are on the same side.",
        unit="ratio",
        gt=0,
        lt=1,
    )
    seed: int | None = optional("Seed of the choice. Unset: training.seed.", unit="1", ge=0, le=MAX_EXACT)


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
    checkpoint_every: int | None = optional(
        "A checkpoint after every so many steps of this stage (CrystalCoder's stage 3: 1000). Unset:"
        " checkpoints.schedule.everySteps.",
        unit="steps",
        ge=1,
        le=MAX_STEPS,
    )
    optimizer_state: OptimizerState | None = optional(
        "What the stage does with AdamW's moments at its first step: carry goes on with those of the stage before,"
        " reset starts them from zero, and the bias correction with them. Unset: carry."
    )
    mix: dict[Name, Share] | None = optional(
        "Relative share of the rows that the recipe takes from each of its sources; one that is not named is left out."
        " Unset: the recipe's.",
        unit="ratio",
        min_length=1,
        max_length=64,
    )
    fim: FillInTheMiddle | None = optional("Fill-in-the-middle in the recipe's sources of code. Unset: none.")


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
    held_out: HeldOut | None = optional(
        "Documents that the recipes keep out of the rows of every stage; llm360 analyze perplexity measures them."
        " Unset: none."
    )
    stages: tuple[Stage, ...] = setting(
        "Stages in their order. A stage takes what it does not state from data and training, and from the preset's"
        " stage of the same name. Unset: one stage, stage1.",
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
