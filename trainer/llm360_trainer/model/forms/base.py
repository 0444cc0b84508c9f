"""What a form is, and what several of them share."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from llm360_trainer.model.config import DecoderConfig

Tensors = Mapping[str, Tensor]

_LAYER = re.compile(r"^layers\.(\d+)\.(.+)$")
_PARTS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Form:
    """One way to publish a decoder.

    Attributes:
        name: `model_type` of its `config.json`.
        fits: Whether the form computes the decoder's function.
        config: The content of `config.json`, without dtype and special ids.
        decoder: The decoder that a `config.json` describes; KeyError or ValueError where it is not of this form.
        export: From tensors by our names to theirs; all tensors of a layer come together.
        restore: The inverse.
    """

    name: str
    fits: Callable[[DecoderConfig], bool]
    config: Callable[[DecoderConfig], dict[str, Any]]
    decoder: Callable[[Mapping[str, Any]], DecoderConfig]
    export: Callable[[DecoderConfig, Tensors], dict[str, Tensor]]
    restore: Callable[[DecoderConfig, Tensors], dict[str, Tensor]]


def require(hf: Mapping[str, Any], name: str, *allowed: Any) -> None:
    """Refuse a value that would make the model compute something else; one that is not there has its default."""
    if name in hf and hf[name] not in allowed:
        raise ValueError(f"{name} is {hf[name]!r}; supported is {' or '.join(map(repr, allowed))}")


def has_plain_heads(config: DecoderConfig) -> bool:
    """Whether every head has its own keys, and all together the model's width."""
    return config.num_kv_heads == config.num_heads and config.num_heads * config.head_dim == config.hidden_size


def export_joined(
    tensors: Tensors,
    top: Mapping[str, str],
    prefix: str,
    layer_names: Mapping[str, str],
    joined_name: str,
    join: Callable[[list[Tensor]], Tensor],
    lay_out: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Rename tensors, and join each layer's query, key and value."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _LAYER.match(name)
        if match is None:
            found[top[name]] = tensor
            continue
        start, (module, _, kind) = prefix.format(match[1]), match[2].rpartition(".")
        if module in layer_names:
            found[f"{start}{layer_names[module]}.{kind}"] = lay_out(tensor)
        elif module == "self_attn.q_proj":
            parts = [tensors[name.replace("q_proj", part)] for part in _PARTS]
            found[f"{start}{joined_name}.{kind}"] = lay_out(join(parts))
    return found


def restore_joined(
    tensors: Tensors,
    top: Mapping[str, str],
    layer: str,
    layer_names: Mapping[str, str],
    joined_name: str,
    split: Callable[[Tensor], list[Tensor]],
    lay_out: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """The inverse of `export_joined`; a name that it does not give is kept, for the caller to refuse."""
    ours_of_top = {theirs: ours for ours, theirs in top.items()}
    ours_of = {theirs: ours for ours, theirs in layer_names.items()}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = re.match(layer, name)
        if match is None:
            found[ours_of_top.get(name, name)] = tensor
            continue
        start, (module, _, kind) = f"layers.{match[1]}.", name[match.end() :].rpartition(".")
        if module == joined_name:
            parts = zip(_PARTS, split(lay_out(tensor)), strict=True)
            found |= {f"{start}self_attn.{part}.{kind}": value for part, value in parts}
        elif module in ours_of:
            ours = ours_of[module]
            found[f"{start}{ours}.{kind}"] = lay_out(tensor)
        else:
            found[name] = tensor
    return found
