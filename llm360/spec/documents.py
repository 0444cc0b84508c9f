"""Reading a specification's text: YAML or JSON as a Kubernetes user writes it, without surprises.

Numbers follow YAML 1.2 and Go's reader (`3e-4` is a number; PyYAML alone reads a string), only true and false are
booleans, dates stay strings, and a key given twice is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable
from typing import Any, TextIO

import yaml

from llm360.errors import InputError

MAX_CHARACTERS = 1 << 20
"""Longest document read; the API server takes objects up to about 1.5 MB."""


_FLOAT = re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")


class _Loader(yaml.SafeLoader):
    """YAML's safe loader with the numbers and booleans of YAML 1.2, refusing duplicate keys."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - its base declares it so

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping whose keys are distinct strings."""
        self.flatten_mapping(node)
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:str":
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key_node.value!r} is no string; write it in quotes",
                    problem_mark=key_node.start_mark,
                )
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key_node.value}' stands here a second time; remove one",
                    problem_mark=key_node.start_mark,
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9_]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), ["<"])


class _Dumper(yaml.SafeDumper):
    """YAML's safe dumper that also quotes the strings which `_Loader` would read as numbers."""

    def ignore_aliases(self, _data: Any) -> bool:
        """Write equal values out each time; anchors are hard to read."""
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def parse(text: str, source: str) -> Any:
    """The one document of a YAML or JSON text, in JSON types.

    Args:
        text: The document.
        source: Its name in messages.

    Raises:
        InputError: it is no YAML, holds several documents, or is longer than 1 MiB.
    """
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{source}: is longer than 1 MiB; a specification has a few KiB")
    try:
        documents = [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        raise InputError(f"{source}:{place} not readable as YAML: {error.problem}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{source}: not readable as YAML: {str(error).splitlines()[0]}") from None
    if len(documents) != 1:
        raise InputError(f"{source}: holds {len(documents)} documents; one LLM360Run is needed")
    try:
        _check_json(documents)
    except (ValueError, TypeError) as error:
        raise InputError(f"{source}: holds something that JSON has no form for: {error}") from None
    return documents[0]


def parse_value(text: str) -> Any:
    """The value of `--set path=value`: a YAML scalar or JSON; what is neither is a string."""
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506
        _check_json(value)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return text
    return value


def _check_json(value: Any) -> None:
    """Raise ValueError or TypeError for cycles, numbers that are not finite, lone surrogates and foreign types."""
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


def read(stream: TextIO, source: str) -> Any:
    """`parse` of a stream's text.

    Raises:
        InputError: it is not UTF-8, or not one YAML document.
    """
    try:
        return parse(stream.read(MAX_CHARACTERS + 1), source)
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: not readable as text: byte {error.start} is not UTF-8") from None


def dump(value: Any) -> str:
    """YAML of a JSON value, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
