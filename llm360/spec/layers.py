"""The layers under a user's specification (built-in defaults, preset) and how one lies over another.

A layer is the `spec` of an LLM360Run of which anything may be missing. Presets are files of the folder
`llm360/presets`; `_defaults.yaml` beside them holds the built-in values. Three members of a preset's file are not part
of its layer: `extends`, the file that it is laid over (`_pythia`, or another preset), `published`, what is known of
the original's data and outcome (`llm360.facts.published`), and `description`. It says what the preset is and not what
a run becomes that begins with it: the words of a release (`spec.release`) are its makers' own, and no preset has any.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from llm360.spec import documents

FOLDER = Path(__file__).parent.parent / "presets"

WHERE_PRESETS_ARE = "`llm360 presets list` shows those that there are"
"""The end of a sentence about a preset that does not exist."""

Layer = dict[str, Any]

_ABOUT_THE_PRESET = ("extends", "published", "description")
"""Members of a preset's file that are not part of its layer."""


def preset_names() -> tuple[str, ...]:
    """The names of all presets, in order."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml") if not path.stem.startswith("_")))


def preset_files(name: str) -> tuple[str, ...]:
    """The preset's file and those that it is laid over, the lowest first."""
    below = _read(name).get("extends")
    return (*(preset_files(below) if below else ()), name)


def preset_file_text(file: str) -> str:
    """One of the files of `preset_files`, as it is written."""
    return (FOLDER / f"{file}.yaml").read_text(encoding="utf-8")


def preset_text(name: str) -> str:
    """A preset as it is written, with the source of each number; where it extends others, theirs come first."""
    files = preset_files(name)
    texts = list(map(preset_file_text, files))
    if len(files) == 1:
        return texts[0]
    return "\n".join(f"# ===== {file}.yaml =====\n{text}" for file, text in zip(files, texts, strict=True))


def preset_layer(name: str) -> Layer:
    """The values that a preset states."""
    layer = merge(*map(_read, preset_files(name)))
    return {key: value for key, value in layer.items() if key not in _ABOUT_THE_PRESET}


def preset_published(name: str) -> Layer:
    """What a preset says of its original's data and outcome, as written; empty where it has none."""
    published: Layer = merge(*map(_read, preset_files(name))).get("published", {})
    return published


def preset_description(name: str) -> str:
    """What a preset is, in a line."""
    description: str = _read(name)["description"]
    return description


def default_layer() -> Layer:
    """The built-in values."""
    return merge(_read("_defaults"))


@cache
def _read(name: str) -> Layer:
    layer: Layer = documents.parse(preset_file_text(name), f"{name}.yaml")
    return layer


def merge(*layers: Layer) -> Layer:
    """Lay each value over those before it, field by field; lists are replaced whole.

    The result shares nothing with the layers. Lists of objects that all have a `name` (stages, tasks) say which
    there are and in which order; an object takes what it does not state from the one of the same name below.
    """
    merged: Layer = {}
    for layer in layers:
        merged = _over(merged, layer)
    return copy.deepcopy(merged)


def _over(lower: Any, upper: Any) -> Any:
    if isinstance(lower, dict) and isinstance(upper, dict):
        merged = {key: _over(lower[key], upper[key]) if key in upper else lower[key] for key in lower}
        return merged | {key: value for key, value in upper.items() if key not in lower}
    if _is_named(lower) and _is_named(upper):
        below = {item["name"]: item for item in lower}
        return [_over(below.get(item["name"], {}), item) for item in upper]
    return upper


def _is_named(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and isinstance(item.get("name"), str) for item in value
    )


def without_nulls(value: Any) -> Any:
    """The value without members that are null: they state nothing, as in the API server."""
    if isinstance(value, dict):
        return {key: without_nulls(member) for key, member in value.items() if member is not None}
    if isinstance(value, list):
        return [without_nulls(member) for member in value]
    return value


DERIVED = ("model.numKeyValueHeads", "model.headDim", "model.maxPositionEmbeddings", "data.stages")
"""Fields that are never missing for themselves, only with what they follow from."""


def fill_derived(spec: Layer) -> Layer:
    """Add values that follow from others where none is stated; operands of a wrong type derive nothing."""
    spec = copy.deepcopy(spec)
    model, training, data = (_section(spec, name) for name in ("model", "training", "data"))
    hidden_size, num_heads = model.get("hiddenSize"), model.get("numHeads")
    if _is_count(num_heads):
        model.setdefault("numKeyValueHeads", num_heads)
    if _is_count(hidden_size) and _is_count(num_heads):
        model.setdefault("headDim", hidden_size // num_heads)
    if _is_count(training.get("sequenceLength")):
        model.setdefault("maxPositionEmbeddings", training["sequenceLength"])
    if data.get("stages") in (None, []):
        data["stages"] = [{"name": "stage1"}]
    stages = data["stages"]
    for stage in stages if isinstance(stages, list) else []:
        if isinstance(stage, dict) and isinstance(stage.get("schedule"), dict):
            stage["schedule"] = merge(training.get("schedule", {}), stage["schedule"])
    return spec


def _section(spec: Layer, name: str) -> dict[str, Any]:
    """A section to fill in; one that is no mapping is left to the validation."""
    section = spec.setdefault(name, {})
    return section if isinstance(section, dict) else {}


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
