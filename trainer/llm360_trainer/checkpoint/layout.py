"""Which file of a checkpoint holds which parameter, and which rank writes it: names in, plan out.

Parameters are named as Hugging Face's Llama names them. Groups are the unit of gathering, writing and verifying:
one per decoder layer, then `embeddings`, then `head` (final norm and output). Group number g is written by rank
`g mod W`, so layer i is written by rank `i mod W`; the files themselves do not depend on W.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# From a parameter's name in the module to its name in Hugging Face's Llama.
Rename = Callable[[str], str]

# Each of a parameter's fp32 tensors in the state files: the master weight and AdamW's two moments.
STATE_KINDS = ("master", "exp_avg", "exp_avg_sq")

MODEL_FOLDER = "model"
STATE_FOLDER = "state"
INDEX_NAME = "model.safetensors.index.json"

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


@dataclass(frozen=True)
class Group:
    """Parameters that are gathered and written together.

    Args:
        label: `layer_00003`, `embeddings` or `head`; also the stem of the state file.
        owner: The rank that gathers and writes it.
        model_file: Key of the model file, relative to the checkpoint's prefix.
        state_file: Key of the state file, relative to the checkpoint's prefix.
        names: The parameters' Hugging Face names, sorted.
    """

    label: str
    owner: int
    model_file: str
    state_file: str
    names: tuple[str, ...]


def state_name(name: str, kind: str) -> str:
    """The name of one of a parameter's tensors in a state file: `model.norm.weight.exp_avg`."""
    return f"{name}.{kind}"


def group_label(name: str) -> str:
    """The group of a parameter by its Hugging Face name."""
    layer = _LAYER.match(name)
    if layer:
        return f"layer_{int(layer[1]):05d}"
    return "embeddings" if name.startswith("model.embed_tokens.") else "head"


def plan_groups(names: Iterable[str], world_size: int) -> tuple[Group, ...]:
    """All groups of a model, decoder layers first, then embeddings, then head.

    Model files are numbered in the order in which a forward pass meets them: embeddings, layers, head.
    """
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(group_label(name), []).append(name)
    layers = sorted(label for label in members if label.startswith("layer_"))
    owning_order = layers + [label for label in ("embeddings", "head") if label in members]
    forward_order = [label for label in ("embeddings", *layers, "head") if label in members]
    number = {label: index + 1 for index, label in enumerate(forward_order)}
    return tuple(
        Group(
            label=label,
            owner=index % world_size,
            model_file=f"{MODEL_FOLDER}/model-{number[label]:05d}-of-{len(number):05d}.safetensors",
            state_file=f"{STATE_FOLDER}/{label}.safetensors",
            names=tuple(sorted(members[label])),
        )
        for index, label in enumerate(owning_order)
    )


def index_json(groups: Iterable[Group], tensor_bytes: Mapping[str, int]) -> bytes:
    """Hugging Face's `model.safetensors.index.json`: the file of each tensor, and the bytes of all."""
    files = {name: group.model_file.removeprefix(f"{MODEL_FOLDER}/") for group in groups for name in group.names}
    index = {
        "metadata": {"total_size": sum(tensor_bytes[name] for name in files)},
        "weight_map": dict(sorted(files.items())),
    }
    return (json.dumps(index, indent=2) + "\n").encode()
