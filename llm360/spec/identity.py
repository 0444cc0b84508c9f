"""Identity and operations: which fields make a run what it is, and which may change while it runs.

Identity is hashed (RFC 8785, sha256) and immutable once a run has begun. Of `checkpoints` it holds what is
published (dtype and schedule: they decide digests that others compare); how often a checkpoint for resuming
is written and how long state is kept are operations. Of `storage` only the address belongs to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llm360.canonical import canonical_json

IDENTITY = (
    "preset",
    "model",
    "tokenizer",
    "data",
    "training",
    "checkpoints.dtype",
    "checkpoints.schedule",
    "storage.uri",
)
"""Paths below `spec`, each with all that lies under it."""


def is_identity(path: str) -> bool:
    """Whether a field below `spec` (`training.seed`) belongs to the identity."""
    return any(path == root or path.startswith((f"{root}.", f"{root}[")) for root in IDENTITY)


def identity_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The identity's part of a resolved spec in JSON types."""
    return _select(spec, "", wanted=True)


def operations_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What is left of a resolved spec without its identity."""
    return _select(spec, "", wanted=False)


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """One sentence per field that differs between two identities (or whole specs), with both values.

    >>> identity_changes({"training": {"seed": 1}}, {"training": {"seed": 2}})
    ['spec.training.seed: was 1, is now 2']
    """
    before, after = dict(_leaves(old, "spec")), dict(_leaves(new, "spec"))
    paths = [*before, *(path for path in after if path not in before)]
    return [
        f"{path}: was {before.get(path, 'unset')}, is now {after.get(path, 'unset')}"
        for path in paths
        if before.get(path) != after.get(path)
    ]


def _select(value: Mapping[str, Any], path: str, *, wanted: bool) -> dict[str, Any]:
    """The members on the wanted side; a section that holds both is split."""
    chosen: dict[str, Any] = {}
    for key, member in value.items():
        member_path = f"{path}.{key}".removeprefix(".")
        if _is_split(member_path):
            part = _select(member, member_path, wanted=wanted)
            if part:
                chosen[key] = part
        elif is_identity(member_path) == wanted:
            chosen[key] = member
    return chosen


def _is_split(path: str) -> bool:
    """Whether identity lies somewhere below the path but is not all of it."""
    return any(root.startswith(f"{path}.") for root in IDENTITY)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Every scalar and every list of scalars as (path, canonical JSON)."""
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _leaves(member, f"{path}.{key}")
    elif isinstance(value, list) and any(isinstance(member, Mapping) for member in value):
        for index, member in enumerate(value):
            yield from _leaves(member, f"{path}[{index}]")
    else:
        yield path, canonical_json(value).decode()
