"""A complete run: all sections with every value filled in, and what follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from llm360.canonical import canonical_json, digest_of
from llm360.errors import SpecError
from llm360.spec.base import ObjectName, Section, optional, setting
from llm360.spec.checkpoints import Checkpoints
from llm360.spec.cluster import Cluster
from llm360.spec.data import Data, FillInTheMiddle, OptimizerState, Remainder
from llm360.spec.evaluation import Evaluation
from llm360.spec.identity import identity_of, operations_of
from llm360.spec.model import Model
from llm360.spec.parallelism import Parallelism
from llm360.spec.recovery import Recovery
from llm360.spec.release import Release
from llm360.spec.storage import Storage
from llm360.spec.tokenizer import Tokenizer
from llm360.spec.training import Schedule, Training

API_VERSION = "llm360.ai/v1alpha1"
KIND = "LLM360Run"

RESOLVED = "llm360.ai/resolved"
"""Annotation of a document whose preset has been applied: a later version's preset must not change it again."""

NO_STORE = (
    "needs a value: it says where the release goes; give --store DIR|s3://BUCKET/PREFIX, or set storage.uri in the file"
)


class ResolvedSpec(Section):
    """`spec` with every value filled in; `None` only where a complete run is without."""

    preset: ObjectName | None = optional("Preset whose values hold where this specification states none.")
    model: Model = setting("The architecture.")
    tokenizer: Tokenizer = setting("The tokenizer.")
    data: Data = setting("What the run reads.")
    training: Training = setting("Batch, optimizer, schedule, precision and seed.")
    parallelism: Parallelism = setting("How a step is spread over workers.")
    checkpoints: Checkpoints = setting("Which checkpoints are published and kept.")
    recovery: Recovery = setting("What happens when something fails.")
    evaluation: Evaluation = setting("What is measured on published checkpoints.")
    storage: Storage = setting("Where the release goes.")
    cluster: Cluster = setting("The pods that the run is given.")
    release: Release = setting("What the release says about itself.")
    suspend: bool = setting("true has the run write a checkpoint, stop and free its pods; false lets it go on.")


@dataclass(frozen=True)
class ResolvedStage:
    """A stage with what it takes from `data` and `training` filled in.

    Attributes:
        name: Unique in the run.
        uri: Folder of the manifest.json.
        recipe: Recipe that prepares the data where it is missing, if any.
        chunks: Number of chunks that the recipe makes, if stated.
        remainder: What becomes of a chunk's rows after whole batches.
        batch_size: Sequences per optimizer step.
        steps: Most optimizer steps; None: as many as the data gives.
        schedule: Learning rate; its steps count from the stage's first.
        checkpoint_every: A checkpoint follows every so many steps of the stage; None: none for that reason.
        optimizer_state: What becomes of AdamW's moments at the stage's first step.
        mix: Relative share of each of the recipe's sources; None: the recipe's own.
        fim: Fill-in-the-middle in the recipe's sources of code, if any.
    """

    name: str
    uri: str
    recipe: str | None
    chunks: int | None
    remainder: Remainder
    batch_size: int
    steps: int | None
    schedule: Schedule
    checkpoint_every: int | None
    optimizer_state: OptimizerState
    mix: Mapping[str, float] | None
    fim: FillInTheMiddle | None


class ResolvedRun(BaseModel):
    """A run's name and complete specification, as `/etc/llm360/run.json` holds it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    spec: ResolvedSpec

    @property
    def store(self) -> str:
        """Address of the release.

        Raises:
            SpecError: `storage.uri` is not set.
        """
        if self.spec.storage.uri is None:
            raise SpecError([f"spec.storage.uri: {NO_STORE}"])
        return self.spec.storage.uri

    @property
    def stages(self) -> tuple[ResolvedStage, ...]:
        """All stages in their order, complete.

        Raises:
            SpecError: a stage's data lies in the release and `storage.uri` is not set.
        """
        data, training = self.spec.data, self.spec.training
        return tuple(
            ResolvedStage(
                name=stage.name,
                uri=stage.uri or data.uri or f"{self.store}/data/{stage.name}",
                recipe=stage.recipe or data.recipe,
                chunks=stage.chunks or data.chunks,
                remainder=stage.remainder or data.remainder,
                batch_size=stage.batch_size or training.batch_size,
                steps=stage.steps or training.steps,
                schedule=stage.schedule or training.schedule,
                checkpoint_every=stage.checkpoint_every or self.spec.checkpoints.schedule.every_steps,
                optimizer_state=stage.optimizer_state or "carry",
                mix=stage.mix,
                fim=stage.fim,
            )
            for stage in data.stages
        )

    def document(self) -> dict[str, Any]:
        """The run as an LLM360Run object in JSON types; it loads again to the same run."""
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name, "annotations": {RESOLVED: "true"}},
            "spec": self.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
        }

    def canonical(self) -> bytes:
        """`document()` as canonical JSON (RFC 8785)."""
        return canonical_json(self.document())

    def identity(self) -> dict[str, Any]:
        """The part of the specification that decides the bits of the release and never changes (see `identity`)."""
        return identity_of(self.document()["spec"])

    def identity_digest(self) -> str:
        """sha256 of the identity's canonical JSON: `status.configDigest`."""
        return digest_of(self.identity())

    def operations(self) -> dict[str, Any]:
        """The part of the specification that may change at any time."""
        return operations_of(self.document()["spec"])
