"""Weights that a run begins with: a folder that `llm360 import` wrote, and its manifest, whose digest binds every byte.

    manifest.json  model-00001-of-….safetensors …  tokenizer.json

Tensors have the names and shapes of a checkpoint's model folder. `spec.model.weights` names folder and digest, both
belong to the run's identity: so the ledger's first entry binds where the run began.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError

from llm360.canonical import canonical_json, sha256_digest
from llm360.errors import InputError, ObjectNotFoundError
from llm360.release.checkpoint import TensorRecord, first_problem
from llm360.release.fields import Digest, StrictModel
from llm360.release.layout import MANIFEST_NAME
from llm360.spec import ResolvedRun
from llm360.storage import Storage, StorageOptions, open_storage

NOT_THE_ARCHITECTURE = ("initialization", "maxPositionEmbeddings", "weights")
"""Fields of `spec.model` that may be another for the same weights."""


class WeightsManifest(StrictModel):
    """What `manifest.json` of imported weights holds."""

    format: Literal["llm360-weights/1"] = "llm360-weights/1"
    source: str = Field(max_length=1024, description="the folder that was imported, as it was named")
    form: str = Field(max_length=64, description="model_type of the folder's config.json")
    model: dict[str, Any] = Field(description="the architecture, as spec.model states it")
    tensors: tuple[TensorRecord, ...] = Field(min_length=1, description="every tensor, sorted by name")
    model_digest: Digest = Field(description="of `tensors`, as a checkpoint's (tensors_digest)")
    tokenizer_digest: Digest | None = Field(None, description="of tokenizer.json, where the folder had one")
    eos_id: int | None = Field(None, ge=0, description="the token that ends a document, where the folder names it")

    def encode(self) -> bytes:
        """The bytes of `manifest.json`: canonical JSON; their sha256 is the weights' digest."""
        return canonical_json(self.model_dump(mode="json"))


def load_weights_manifest(storage: Storage, digest: str) -> WeightsManifest:
    """The manifest in a folder of weights, checked against the digest that the specification names.

    Args:
        storage: Rooted at the folder.
        digest: Of the manifest's stored bytes.

    Raises:
        InputError: reason WeightsMissing or WeightsDiffer: there is none, it has another digest, or it is no manifest.
    """
    try:
        data = storage.get(MANIFEST_NAME)
    except ObjectNotFoundError as error:
        raise InputError(
            f"spec.model.weights: there is no {MANIFEST_NAME} at {storage.uri}; give the folder that"
            " `llm360 import hf` wrote",
            reason="WeightsMissing",
        ) from error
    found = sha256_digest(data)
    if found != digest:
        raise InputError(
            f"spec.model.weights.digest is {digest}, but the weights at {storage.uri} have {found}; correct the one"
            " or the other",
            reason="WeightsDiffer",
        )
    try:
        return WeightsManifest.model_validate_json(data)
    except ValidationError as error:
        raise InputError(
            f"{storage.uri}/{MANIFEST_NAME} is no manifest of weights: {first_problem(error)}", reason="WeightsDiffer"
        ) from error


def check_weights(run: ResolvedRun, options: StorageOptions) -> None:
    """See that the weights which a run is to begin with are there and of its architecture, if it names any.

    Raises:
        InputError: they are not there, have another digest, or are of another architecture; names the field.
        StorageError: they cannot be read.
    """
    weights = run.spec.model.weights
    if weights is None:
        return
    manifest = load_weights_manifest(open_storage(weights.uri, options), weights.digest)
    stated = run.spec.model.model_dump(mode="json", by_alias=True, exclude_none=True)
    for field, value in manifest.model.items():
        if field not in NOT_THE_ARCHITECTURE and stated.get(field) != value:
            raise InputError(
                f"spec.model.{field} is {stated.get(field)}, but the weights at {weights.uri} are of a model with"
                f" {value}; take the model that `llm360 import hf` printed",
                reason="WeightsDiffer",
            )
