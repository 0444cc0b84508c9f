"""From pydantic's errors to sentences: what is wrong, the value found, what is allowed, what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from llm360.errors import nearest
from llm360.spec.base import Section


class Problem(NamedTuple):
    """A field below `spec` (`data.stages[0].name`) and what is wrong with it, and whether it is merely absent."""

    path: str
    sentence: str
    is_missing: bool = False

    def __str__(self) -> str:
        return f"spec.{self.path}: {self.sentence}" if self.path else f"spec: {self.sentence}"


def path_of(loc: Sequence[str | int]) -> str:
    """`("data", "stages", 0, "name")` as `data.stages[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")


def describe(error: ErrorDetails, root: type[Section]) -> Problem:
    """One of pydantic's errors as a problem.

    Args:
        error: The error, its location below `spec`.
        root: The model of `spec`.
    """
    loc = tuple(part for part in error["loc"] if part != "[key]")
    if error["type"] == "missing":
        return Problem(path_of(loc), _missing(loc), is_missing=True)
    if error["type"] == "extra_forbidden":
        return Problem(path_of(loc), _unknown(loc, root))
    found = error["input"]
    kind = " (a string)" if isinstance(found, str) and error["type"] in _KINDS else ""
    sentence = f"{_expected(error)}, found {shown(found)}{kind}{_advice(error, found)}{_meaning(loc, root)}"
    return Problem(path_of(loc), sentence)


def shown(value: Any) -> str:
    """A value as JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


_KINDS = {
    "int_type": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be a string",
    "model_type": "must be an object with fields",
    "model_attributes_type": "must be an object with fields",
    "dict_type": "must be an object with fields",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
}

_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least"),
    "greater_than": ("gt", "must be greater than"),
    "less_than_equal": ("le", "must be at most"),
    "less_than": ("lt", "must be less than"),
}


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{words} {context[key]:.17g}"
    if kind == "literal_error":
        return f"must be one of {context['expected'].replace(chr(39), '')}"
    if kind == "string_pattern_mismatch":
        return f"must have the form {context['pattern']}"
    if kind in ("string_too_long", "too_long"):
        return f"may have at most {context['max_length']} {'characters' if 'string' in kind else 'entries'}"
    if kind in ("string_too_short", "too_short"):
        return f"must have at least {context['min_length']} {'characters' if 'string' in kind else 'entries'}"
    return f"is refused ({error['msg']})"


def _advice(error: ErrorDetails, found: Any) -> str:
    """What to do about a value of the wrong type, where that is plain."""
    if error["type"] == "bool_type" and str(found).lower() in ("yes", "on", "no", "off"):
        return f"; write {'true' if str(found).lower() in ('yes', 'on') else 'false'}"
    if error["type"] in ("int_type", "float_type", "bool_type") and isinstance(found, str):
        return "; write it without quotes" if _is_scalar(found) else ""
    if error["type"] == "string_type" and isinstance(found, (int, float)):
        return "; write it in quotes"
    if error["type"] == "literal_error" and isinstance(found, str):
        return nearest(found, error.get("ctx", {})["expected"].replace("'", "").replace(" or ", ", ").split(", "))
    return ""


def _is_scalar(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _meaning(loc: Sequence[str | int], root: type[Section]) -> str:
    """The field's description, as a reminder of what is wanted."""
    fields = list(_fields_along(loc, root))
    return f". {fields[-1].description}" if fields else ""


def _fields_along(loc: Sequence[str | int], root: type[BaseModel]) -> Iterator[FieldInfo]:
    """The fields that a location leads through, as far as they are known."""
    model: type[BaseModel] | None = root
    for name in loc:
        if isinstance(name, str) and model is not None:
            field = next((field for field in model.model_fields.values() if field.alias == name), None)
            if field is None:
                return
            yield field
            model = model_in(field.annotation)


def _missing(loc: Sequence[str | int]) -> str:
    if any(isinstance(part, int) for part in loc):
        return "needs a value"
    return "needs a value; set it, or name a preset that has it (`llm360 presets list`)"


def _unknown(loc: Sequence[str | int], root: type[Section]) -> str:
    word = str(loc[-1])
    fields = list(_fields_along(loc[:-1], root))
    model = model_in(fields[-1].annotation) if fields else root
    names = [str(field.alias) for field in model.model_fields.values()] if model else []
    elsewhere = [path for path in field_paths(root) if path.rsplit(".", 1)[-1].lower() == word.lower()]
    there = min(elsewhere, key=lambda path: path.count("."), default=None)
    hint = nearest(word, names) or (f" (did you mean 'spec.{there}'?)" if there else "")
    return f"unknown field{hint or '; fields here are ' + ', '.join(names)}"


def field_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """The paths of all fields below a model, lists without their index."""
    for field in model.model_fields.values():
        yield (path := f"{prefix}{field.alias}")
        inner = model_in(field.annotation)
        if inner is not None:
            yield from field_paths(inner, f"{path}.")


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, alone, optional, or in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for argument in get_args(annotation) if (model := model_in(argument)) is not None), None)
