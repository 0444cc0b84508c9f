"""Committed checkpoints of a release, opened to be computed with: a decoder and its tokenizer, every byte verified.

    history = open_release(storage).history()
    for checkpoint in select_checkpoints(history, "all"):        a step, a label, an entry's digest, latest, all
        opened = open_checkpoint(storage, history, checkpoint)   .decoder .tokenizer .eos_id .entry .manifest

The weights are those of the published model folder, in the dtype that is asked for. A tensor's digest is compared
with the manifest's, and the manifest's with the ledger's, before the tensor is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from llm360.canonical import sha256_digest
from llm360.errors import InputError, IntegrityError, ObjectNotFoundError
from llm360.release.checkpoint import MODEL_FOLDER, CheckpointManifest, TensorRecord, load_checkpoint_manifest
from llm360.release.create import load_config
from llm360.release.history import CheckpointEntry, History
from llm360.release.selection import name_of
from llm360.spec.model import Model
from llm360.storage import Storage
from llm360_trainer.checkpoint.weights import TORCH_DTYPES, read_tensors
from llm360_trainer.model import Decoder, DecoderConfig, from_hf_name, layer_of
from llm360_trainer.train.settings import decoder_config

_THREADS = 4  # layers at a time: reading waits for the network and hashing leaves the interpreter free

Records = Mapping[str, TensorRecord]


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint whose bytes are those of the ledger.

    Attributes:
        entry: Its entry in the ledger.
        manifest: Its files and tensors.
        decoder: In evaluation mode, without gradients, plain (not sharded), on the device asked for.
        tokenizer: The one beside its weights; None where the release has none.
        eos_id: Token that ends a document, if the release names one.
    """

    entry: CheckpointEntry
    manifest: CheckpointManifest
    decoder: Decoder
    tokenizer: Tokenizer | None
    eos_id: int | None


def open_checkpoint(
    storage: Storage,
    history: History,
    checkpoint: CheckpointEntry,
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
) -> OpenedCheckpoint:
    """Verify a checkpoint's model and load it.

    Args:
        storage: Rooted at the release.
        history: Of the release.
        checkpoint: From `select_checkpoints`.
        dtype: Of the weights in memory, and so of the computation; None: as published.
        device: Where they go.

    Raises:
        InputError: the checkpoint's model was pruned.
        IntegrityError: bytes are not those that the ledger names; says of which checkpoint. Nothing is returned then.
        StorageError: the release cannot be read.
    """
    if MODEL_FOLDER in history.pruned_parts(checkpoint.name):
        raise InputError(f"the model of {name_of(checkpoint)} was pruned; take another checkpoint")
    root = storage.at(checkpoint.body.prefix)
    try:
        manifest = load_checkpoint_manifest(storage, checkpoint.body.prefix, checkpoint.body.digests.manifest)
        dtype = dtype or TORCH_DTYPES[manifest.model[0].dtype]
        decoder = _decoder(root, architecture(storage, history), manifest, dtype, device)
        tokenizer = small_file(root, manifest, "tokenizer.json")
        eos_id = end_of_document(root, manifest)
    except (IntegrityError, ObjectNotFoundError) as error:
        raise IntegrityError(
            f"checkpoint {name_of(checkpoint)} ({checkpoint.body.prefix}) does not verify: {error.message};"
            " nothing of it was used, take another one or restore the file from a copy"
        ) from error
    return OpenedCheckpoint(
        entry=checkpoint,
        manifest=manifest,
        decoder=decoder,
        tokenizer=Tokenizer.from_str(tokenizer.decode()) if tokenizer is not None else None,
        eos_id=eos_id,
    )


def architecture(storage: Storage, history: History) -> DecoderConfig:
    """The decoder of a release, by its configuration.

    Raises:
        IntegrityError: the stored configuration is not the one that the ledger names.
    """
    identity = load_config(storage, history.config_digest)
    return decoder_config(Model.model_validate_json(json.dumps(identity["model"])))


def model_records(manifest: CheckpointManifest) -> Records:
    """The published model's tensors, by our names."""
    return {from_hf_name(record.name): record for record in manifest.model}


def by_layer(records: Records) -> Sequence[Records]:
    """Embedding, each layer, then norm and head: the order of a forward pass."""
    groups: dict[int, dict[str, TensorRecord]] = {}
    last = 1 + max((layer_of(name) or 0 for name in records), default=0)
    for name in sorted(records):
        layer = layer_of(name)
        place = layer if layer is not None else -1 if name.startswith("embed.") else last
        groups.setdefault(place, {})[name] = records[name]
    return [groups[place] for place in sorted(groups)]


def small_file(root: Storage, manifest: CheckpointManifest, name: str) -> bytes | None:
    """A small file of the model folder, checked against its digest; None where there is none.

    Args:
        root: Rooted at the checkpoint.
        manifest: The checkpoint's.
        name: `config.json`, `tokenizer.json`.

    Raises:
        IntegrityError: it holds other bytes than recorded.
    """
    key = f"{MODEL_FOLDER}/{name}"
    record = next((file for file in manifest.files if file.key == key), None)
    if record is None:
        return None
    data = root.get(key)
    if sha256_digest(data) != record.sha256:
        raise IntegrityError(f"{root.uri}/{key} holds other bytes than recorded")
    return data


def end_of_document(root: Storage, manifest: CheckpointManifest) -> int | None:
    """The token that ends a document, by the checkpoint's `config.json`; None where it names none."""
    eos_id = json.loads(small_file(root, manifest, "config.json") or b"{}").get("eos_token_id")
    return eos_id if isinstance(eos_id, int) else None


def _decoder(
    root: Storage,
    config: DecoderConfig,
    manifest: CheckpointManifest,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Decoder:
    """The decoder with its weights, each tensor checked on its way."""
    with torch.device("meta"):
        decoder = Decoder(config)
    records = model_records(manifest)
    shapes = {name: tuple(parameter.shape) for name, parameter in decoder.named_parameters()}
    if shapes != {name: record.shape for name, record in records.items()}:
        raise IntegrityError("the manifest's tensors are not those of the release's architecture")

    def load(layer: Records) -> dict[str, torch.Tensor]:
        return {name: tensor.to(device, dtype) for name, tensor in read_tensors(root, layer).items()}

    with ThreadPoolExecutor(_THREADS, thread_name_prefix="open-checkpoint") as pool:
        for tensors in pool.map(load, by_layer(records)):
            decoder.load_state_dict(tensors, strict=False, assign=True)
    return decoder.requires_grad_(False).eval()
