"""A release's checkpoint as a Hugging Face folder. Every tensor's bytes are compared with the ledger's digests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llm360.errors import InputError
from llm360.release.checkpoint import CheckpointManifest, load_checkpoint_manifest
from llm360.release.create import open_release
from llm360.release.history import CheckpointEntry, History
from llm360.release.selection import find_checkpoint
from llm360.report.card import ExportedModel, model_card
from llm360.storage import Storage
from llm360_trainer.checkpoint.layout import MODEL_FOLDER, STATE_FOLDER, state_name
from llm360_trainer.checkpoint.weights import TORCH_DTYPES, read_tensors
from llm360_trainer.exchange.folder import MAX_SHARD_BYTES, Contents, num_bytes, write_folder
from llm360_trainer.exchange.opened import Records, architecture, by_layer, end_of_document, model_records, small_file
from llm360_trainer.exchange.outputs import appearing_folder, check_new_folder, check_space
from llm360_trainer.model import to_hf_name
from llm360_trainer.model.forms import FORMS, form_of
from llm360_trainer.train.settings import DTYPES


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        folder: Where it lies.
        form: `model_type` of its configuration.
        dtype: Of its tensors.
        step: Finished steps of the checkpoint.
        model_digest: The checkpoint's, by its manifest.
        num_files: Files of weights.
    """

    folder: Path
    form: str
    dtype: str
    step: int
    model_digest: str
    num_files: int


def export_checkpoint(
    storage: Storage,
    label_or_step: str,
    *,
    out: Path | None = None,
    dtype: str | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Exported:
    """Write a checkpoint as a Hugging Face folder; the folder appears complete or not at all.

    Args:
        storage: Rooted at the release.
        label_or_step: Which checkpoint, as `llm360 ls` shows it.
        out: The folder; None names it after the release and the checkpoint, in the working directory.
        dtype: `float32` or `bfloat16`; None takes the published model's.
        max_shard_bytes: Largest file of weights.

    Raises:
        InputError: no such checkpoint, no form for its architecture, its tensors pruned, or the folder exists.
        IntegrityError: bytes of the release are not those of the ledger.
        StorageError: the release cannot be read, or the folder cannot be written or is too large for its disk.
    """
    if out is not None:
        check_new_folder(out)
    history = open_release(storage).history()
    checkpoint = find_checkpoint(history, label_or_step)
    label = checkpoint.body.labels[0] if checkpoint.body.labels else f"step-{checkpoint.step}"
    if out is None:
        out = Path(f"{storage.uri.rstrip('/').rsplit('/', 1)[-1]}-{label}")
        check_new_folder(out)
    manifest = load_checkpoint_manifest(storage, checkpoint.body.prefix, checkpoint.body.digests.manifest)
    contents = _contents(storage, history, checkpoint, manifest, dtype)
    check_space(out, num_bytes(contents))
    with appearing_folder(out) as unfinished:
        write_folder(unfinished, contents, max_shard_bytes)
    return Exported(
        folder=out,
        form=contents.form.name,
        dtype=str(contents.dtype).removeprefix("torch."),
        step=checkpoint.step,
        model_digest=manifest.model_digest,
        num_files=len(list(out.glob("model-*.safetensors"))),
    )


def _contents(
    storage: Storage, history: History, checkpoint: CheckpointEntry, manifest: CheckpointManifest, dtype: str | None
) -> Contents:
    pruned = history.pruned_parts(checkpoint.name)
    if MODEL_FOLDER in pruned:
        raise InputError(f"the model of step {checkpoint.step} was pruned; export another checkpoint")
    config = architecture(storage, history)
    form = form_of(config)
    if form is None:
        raise InputError(
            "the release's architecture is none that the forms can describe"
            f" ({', '.join(FORMS)}); its checkpoints are safetensors by Llama's names as they are"
        )
    root = storage.at(checkpoint.body.prefix)
    published = TORCH_DTYPES[manifest.model[0].dtype]
    wanted = published if dtype is None else DTYPES[dtype]
    # More bits than the published model has are in the state alone, whose weights are fp32.
    from_state = wanted.itemsize > published.itemsize
    if from_state and STATE_FOLDER in pruned:
        raise InputError(
            f"step {checkpoint.step} was published in {manifest.model[0].dtype} and its state, which alone has float32,"
            " was pruned; export it without --dtype"
        )
    layers = by_layer(_state_records(manifest) if from_state else model_records(manifest))
    tokenizer = small_file(root, manifest, "tokenizer.json")
    hf = form.config(config)
    exported = ExportedModel(
        architecture=hf["architectures"][0],
        has_own_code="auto_map" in hf,
        weights=_weights_text(wanted, published),
        has_tokenizer=tokenizer is not None,
    )
    return Contents(
        form=form,
        config=config,
        shapes=tuple({name: record.shape for name, record in layer.items()} for layer in layers),
        layers=lambda: (read_tensors(root, layer) for layer in layers),
        dtype=wanted,
        eos_id=end_of_document(root, manifest),
        tokenizer=tokenizer,
        origin=_origin(storage, history, checkpoint, manifest),
        card=model_card(storage, history, checkpoint, manifest, exported),
    )


def _weights_text(wanted: torch.dtype, published: torch.dtype) -> str:
    """The weights' dtype, and how they came by it where the checkpoint was published in another."""
    name, other = (str(dtype).removeprefix("torch.") for dtype in (wanted, published))
    if wanted == published:
        return name
    if wanted.itemsize > published.itemsize:
        return f"{name}, from the optimizer's state; the checkpoint's model is {other}"
    return f"{name}, rounded from the checkpoint's {other}"


def _origin(
    storage: Storage, history: History, checkpoint: CheckpointEntry, manifest: CheckpointManifest
) -> dict[str, Any]:
    """What binds the folder to the release: anyone can look the digests up in its ledger."""
    return {
        "release": storage.uri,
        "config_digest": history.config_digest,
        "ledger_entry": checkpoint.name,
        "labels": list(checkpoint.body.labels),
        "step": checkpoint.step,
        "tokens": checkpoint.body.tokens,
        "model_digest": manifest.model_digest,
        "state_digest": manifest.state_digest,
    }


def _state_records(manifest: CheckpointManifest) -> Records:
    """The state's fp32 weights, by our names."""
    by_name = {record.name: record for record in manifest.state}
    return {name: by_name[state_name(to_hf_name(name), "master")] for name in model_records(manifest)}
