"""A Hugging Face folder, written layer by layer: sharded safetensors, their index, and the small files beside them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from llm360.report.card import CARD_NAME
from llm360_trainer.checkpoint.layout import INDEX_NAME
from llm360_trainer.model import DecoderConfig
from llm360_trainer.model.forms import Form, form_config

MAX_SHARD_BYTES = 5 * 10**9
"""Largest file of weights; what `save_pretrained` of transformers takes."""

Layers = Callable[[], Iterable[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Contents:
    """What a folder is to hold.

    Attributes:
        form: A form that fits the decoder.
        config: The decoder.
        shapes: Each layer's tensors by our names with their shapes, in the order in which `layers` gives them.
        layers: Gives each layer's tensors by our names.
        dtype: Of the stored tensors.
        eos_id: Token that ends a document, if any.
        tokenizer: Bytes of tokenizer.json, if any.
        origin: Where it comes from, JSON values; becomes `llm360.json`.
        card: What the Hub and a person read of it, in Markdown; becomes `README.md`.
    """

    form: Form
    config: DecoderConfig
    shapes: tuple[dict[str, tuple[int, ...]], ...]
    layers: Layers
    dtype: torch.dtype
    eos_id: int | None
    tokenizer: bytes | None
    origin: Mapping[str, Any]
    card: str


def write_folder(folder: Path, contents: Contents, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write all files into an existing, empty folder.

    Args:
        folder: Where they go.
        contents: What they hold.
        max_shard_bytes: Largest file of weights; a larger tensor has a file of its own.

    Raises:
        OSError: the file system refuses.
    """
    shards = plan_shards(_exported_sizes(contents), max_shard_bytes)
    for number, (shard, tensors) in enumerate(_filled(shards, contents), 1):
        assert set(tensors) == set(shard), "the plan names what the layers give"
        _save(tensors, folder / _shard_name(number, len(shards)))
    weights = {name: _shard_name(number, len(shards)) for number, shard in enumerate(shards, 1) for name in shard}
    total = sum(size for shard in shards for size in shard.values())
    _write_json(folder / INDEX_NAME, {"metadata": {"total_size": total}, "weight_map": weights})
    for name, content in _small_files(contents).items():
        _write_json(folder / name, content)
    (folder / CARD_NAME).write_text(contents.card, encoding="utf-8", newline="\n")
    if contents.tokenizer is not None:
        (folder / "tokenizer.json").write_bytes(contents.tokenizer)
    usual_mode = (folder / INDEX_NAME).stat().st_mode
    for name in set(weights.values()):
        (folder / name).chmod(usual_mode)  # the library lets the owner alone read


def num_bytes(contents: Contents) -> int:
    """Bytes that the weights take; found without any."""
    return sum(_exported_sizes(contents).values())


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> list[dict[str, int]]:
    """The tensors of each file with their bytes, in the order given; a file is closed before it would be too large."""
    shards: list[dict[str, int]] = [{}]
    for name, size in sizes.items():
        if shards[-1] and sum(shards[-1].values()) + size > max_bytes:
            shards.append({})
        shards[-1][name] = size
    return shards


def _exported_sizes(contents: Contents) -> dict[str, int]:
    """Bytes of every tensor by the form's names; found without any weights."""
    sizes: dict[str, int] = {}
    for layer in contents.shapes:
        empty = {name: torch.empty(shape, device="meta", dtype=contents.dtype) for name, shape in layer.items()}
        exported = contents.form.export(contents.config, empty)
        sizes |= {name: tensor.numel() * tensor.itemsize for name, tensor in exported.items()}
    return sizes


def _filled(shards: list[dict[str, int]], contents: Contents) -> Iterator[tuple[dict[str, int], dict[str, Tensor]]]:
    """Each shard with its tensors; at any time one layer and one shard are in memory."""
    pending: dict[str, Tensor] = {}
    waiting = iter(shards)
    shard = next(waiting)
    for layer in contents.layers():
        for name, tensor in contents.form.export(contents.config, layer).items():
            pending[name] = tensor.to(contents.dtype).contiguous()
            if len(pending) == len(shard):
                yield shard, pending
                pending, shard = {}, next(waiting, {})


def _small_files(contents: Contents) -> dict[str, Any]:
    dtype = str(contents.dtype).removeprefix("torch.")
    eos_id, config = contents.eos_id, contents.config
    files: dict[str, Any] = {
        "config.json": form_config(contents.form, config, dtype, eos_id),
        "generation_config.json": {
            "eos_token_id": eos_id,
            "pad_token_id": eos_id,  # it has none of its own; what is padded is never read
            "max_length": config.max_position_embeddings,
        },
        "llm360.json": dict(contents.origin),
    }
    if contents.tokenizer is not None:
        eos = None
        if eos_id is not None:
            eos = Tokenizer.from_str(contents.tokenizer.decode()).id_to_token(eos_id)
        files["tokenizer_config.json"] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": eos,
            "model_max_length": config.max_position_embeddings,
            "clean_up_tokenization_spaces": False,  # the text is given back as it was
        }
    return files


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except SafetensorError as error:
        # The library has the system's refusal in its text alone.
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise OSError(str(error)) from error
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def _shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
