"""A Hugging Face folder as weights that a run begins with: read, checked, renamed, and bound by one digest."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llm360.canonical import sha256_digest
from llm360.errors import InputError
from llm360.release.checkpoint import TensorRecord, tensors_digest
from llm360.release.layout import MANIFEST_NAME
from llm360.release.weights import WeightsManifest
from llm360.storage import Storage
from llm360_trainer.checkpoint.layout import INDEX_NAME
from llm360_trainer.checkpoint.tensorfile import DTYPE_NAMES, upload_tensors
from llm360_trainer.model import Decoder, DecoderConfig, layer_of, model_section, to_hf_name
from llm360_trainer.model.forms import Form, decoder_of

_SINGLE_NAME = "model.safetensors"
_TABLES = ("rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")
"""Ends of the names of tables that old exports carry along and that every reader computes."""


@dataclass(frozen=True)
class Imported:
    """What an import wrote.

    Attributes:
        uri: The folder of weights.
        digest: Of its manifest.
        manifest: What it says.
    """

    uri: str
    digest: str
    manifest: WeightsManifest

    def spec(self) -> dict[str, Any]:
        """The part of a specification that begins with these weights, in JSON types."""
        model = self.manifest.model | {"weights": {"uri": self.uri, "digest": self.digest}}
        tokenizer: dict[str, Any] = {}
        if self.manifest.tokenizer_digest is not None:
            tokenizer = {"uri": f"{self.uri}/tokenizer.json", "digest": self.manifest.tokenizer_digest}
        if self.manifest.eos_id is not None:
            tokenizer["eosId"] = self.manifest.eos_id
        return {"model": model, "tokenizer": tokenizer}


def import_folder(folder: Path, storage: Storage) -> Imported:
    """Write the weights of a Hugging Face folder as a folder of weights; the manifest, last, makes it complete.

    Args:
        folder: Has config.json and safetensors, in one file or with an index.
        storage: Rooted at the folder of weights; read and written as `--out` says.

    Raises:
        InputError: there is no such folder, it is of no form that is known, its tensors are not those of its
            configuration, or other weights are there already. Nothing was written then.
        StorageError: the store fails.
    """
    hf = _read_config(folder)
    form, config = _decoder(folder, hf)
    files = _Files(folder)
    layers = _layers(config)
    _check_tensors(folder, form, config, layers, files)
    if storage.exists(MANIFEST_NAME):
        raise InputError(f"there are weights at {storage.uri} already; give another --out")
    records = [
        record
        for number, layer in enumerate(layers, 1)
        for record in _store_layer(
            storage, f"model-{number:05d}-of-{len(layers):05d}.safetensors", _read_layer(form, config, layer, files)
        )
    ]
    tokenizer = folder / "tokenizer.json"
    if tokenizer.is_file():
        storage.put(tokenizer.name, tokenizer.read_bytes())
    eos_id = hf.get("eos_token_id")
    manifest = WeightsManifest(
        source=str(folder),
        form=form.name,
        model=model_section(config),
        tensors=tuple(sorted(records, key=lambda record: record.name)),
        model_digest=tensors_digest(records),
        tokenizer_digest=sha256_digest(tokenizer.read_bytes()) if tokenizer.is_file() else None,
        eos_id=eos_id if isinstance(eos_id, int) else None,
    )
    data = manifest.encode()
    storage.put(MANIFEST_NAME, data)
    return Imported(storage.uri, sha256_digest(data), manifest)


Shapes = Mapping[str, tuple[int, ...]]


class _Files:
    """The safetensors files of a folder, as one mapping from names to tensors."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index, single = folder / INDEX_NAME, folder / _SINGLE_NAME
        if index.is_file():
            names = _files_by_name(index)
        elif single.is_file():
            names = dict.fromkeys(_names_in(single), single.name)
        else:
            raise InputError(
                f"{folder} has neither {INDEX_NAME} nor {_SINGLE_NAME}; weights in pytorch_model.bin are not read,"
                " since they are code: save them with save_pretrained(…, safe_serialization=True)"
            )
        self.file_of = {name: file for name, file in names.items() if not name.endswith(_TABLES)}

    def check_shapes(self, shapes: Shapes) -> None:
        """Compare the shapes of all tensors, from the files' headers alone."""
        for file in sorted({self.file_of[name] for name in shapes}):
            with _opened(self._folder / file) as opened:
                for name in list(opened.keys()):
                    found = opened.get_slice(name).get_shape()
                    if name in shapes and tuple(found) != shapes[name]:
                        raise InputError(
                            f"{self._folder}/{file}: '{name}' is {found}, but config.json makes it {list(shapes[name])}"
                        )

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Tensors by name."""
        tensors: dict[str, Tensor] = {}
        for name in names:
            with _opened(self._folder / self.file_of[name]) as opened:
                tensors[name] = opened.get_tensor(name)
        return tensors


def _files_by_name(index: Path) -> dict[str, str]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {str(name): str(file) for name, file in names.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(
            f"{index} is no index of safetensors ({type(error).__name__}: {error}); take the folder from its source"
            " again"
        ) from error


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} cannot be read as safetensors: {error}") from error


def _names_in(path: Path) -> list[str]:
    with _opened(path) as opened:
        return list(opened.keys())


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} has no config.json, so it is no Hugging Face folder") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}/config.json cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"{folder}/config.json holds no object")
    return config


def _decoder(folder: Path, hf: Mapping[str, Any]) -> tuple[Form, DecoderConfig]:
    try:
        return decoder_of(hf)
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder}/config.json is of a model that cannot be trained here: {error}") from error


def _layers(config: DecoderConfig) -> list[dict[str, tuple[int, ...]]]:
    """Embedding, each layer, then norm and head, by our names: the files that are written."""
    with torch.device("meta"):
        shapes = {name: tuple(parameter.shape) for name, parameter in Decoder(config).named_parameters()}
    groups: dict[int, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        layer = layer_of(name)
        place = layer if layer is not None else -1 if name.startswith("embed.") else config.num_layers
        groups.setdefault(place, {})[name] = shape
    return [groups[place] for place in sorted(groups)]


def _exported_shapes(form: Form, config: DecoderConfig, layer: Shapes) -> dict[str, tuple[int, ...]]:
    """A layer's tensors by the form's names."""
    empty = {name: torch.empty(shape, device="meta") for name, shape in layer.items()}
    return {name: tuple(tensor.shape) for name, tensor in form.export(config, empty).items()}


def _check_tensors(folder: Path, form: Form, config: DecoderConfig, layers: Sequence[Shapes], files: _Files) -> None:
    """The folder has exactly the tensors that its configuration asks for; a tied head may be there once more."""
    wanted = {name: shape for layer in layers for name, shape in _exported_shapes(form, config, layer).items()}
    found = set(files.file_of)
    if config.tied_embeddings:
        found -= {"lm_head.weight", "embed_out.weight"} - wanted.keys()
    for sentence, names in (("lacks", wanted.keys() - found), ("has besides", found - wanted.keys())):
        if names:
            raise InputError(f"{folder} {sentence} '{min(names)}', which its config.json does not agree with")
    files.check_shapes(wanted)


def _read_layer(form: Form, config: DecoderConfig, layer: Shapes, files: _Files) -> dict[str, Tensor]:
    """A layer's tensors by Llama's names, as a checkpoint has them."""
    restored = form.restore(config, files.read(_exported_shapes(form, config, layer)))
    return {to_hf_name(name): restored[name] for name in sorted(layer)}


def _store_layer(storage: Storage, key: str, tensors: Mapping[str, Tensor]) -> Iterator[TensorRecord]:
    """Write a layer in its own dtype; float32 where its tensors have several, or one that is not written."""
    dtypes = {tensor.dtype for tensor in tensors.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 and dtypes <= DTYPE_NAMES.keys() else torch.float32
    sent = upload_tensors(storage, key, tensors, dtype)
    for name, tensor in tensors.items():
        yield TensorRecord(
            name=name, file=key, dtype=DTYPE_NAMES[dtype], shape=tuple(tensor.shape), sha256=sent.tensors[name]
        )
