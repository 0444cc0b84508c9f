"""`--set a.b=c`: single values laid over a specification from the command line."""

from __future__ import annotations

import itertools
import re
from typing import Any

from llm360.errors import InputError
from llm360.spec import documents

Path = tuple[str | int, ...]

ROOTS = ("spec", "metadata")
"""Where a path may begin; one that begins elsewhere lies below `spec`."""

_INDEX = re.compile(r"\[([0-9]+)\]")
_DOT = re.compile(r"(?<!\\)\.")


def parse_override(text: str) -> tuple[Path, Any]:
    r"""`training.batchSize=64` as a path from the root and a value.

    An index is written `data.stages[0]` or `data.stages.0`, a dot inside a name `\.`.

    Raises:
        InputError: no `=`, or an empty part in the path.
    """
    name, separator, value = text.partition("=")
    parts = [part.replace("\\.", ".") for part in _DOT.split(_INDEX.sub(r".\1", name.strip()))]
    if not separator or not all(parts):
        raise InputError(f"--set {text}: is no assignment; write it like --set training.batchSize=64")
    if parts[0] not in ROOTS or len(parts) == 1:
        parts.insert(0, "spec")
    return tuple(int(part) if part.isdigit() else part for part in parts), documents.parse_value(value)


def apply_override(root: dict[str, Any], text: str) -> None:
    """Set one value of an object's `spec` or `metadata` in place; null takes a value away.

    Raises:
        InputError: the path leads through a value that has no fields, or beyond the end of a list.
    """
    path, value = parse_override(text)
    target: Any = root
    for part, following in itertools.pairwise(path):
        target = _member(target, part, [] if isinstance(following, int) else {}, text)
    _assign(target, path[-1], value, text)


def _member(target: Any, part: str | int, empty: Any, text: str) -> Any:
    """The value that `part` names, made where there is none."""
    if isinstance(target, dict):
        return target.setdefault(str(part), empty)
    index = _index(target, part, text)
    if index == len(target):
        target.append(empty)
    return target[index]


def _assign(target: Any, part: str | int, value: Any, text: str) -> None:
    if isinstance(target, dict):
        target[str(part)] = value
        if value is None:
            del target[str(part)]
        return
    index = _index(target, part, text)
    target[index : index + 1] = [] if value is None else [value]


def _index(target: Any, part: str | int, text: str) -> int:
    """The part as an index of the target; refuse what is neither a field of an object nor an index of a list."""
    if not isinstance(target, list):
        raise InputError(f"--set {text}: '{part}' does not lead on: before it stands {target!r}, which has no fields")
    if not isinstance(part, int):
        raise InputError(f"--set {text}: '{part}' stands where a list takes an index, for example [0]")
    if part > len(target):
        raise InputError(f"--set {text}: there is no [{part}]; the list has {len(target)} entries")
    return part
