"""The reference page of LLM360Run, written from the schema and the built-in defaults: `docs/reference/spec.md`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from llm360.spec.identity import IDENTITY, is_identity
from llm360.spec.layers import default_layer
from llm360.spec.run import API_VERSION, KIND
from llm360.spec.schema import Schema, spec_schema

_INTRODUCTION = f"""\
# {KIND}

<!-- Written by `llm360 spec reference`; do not edit. -->

`apiVersion: {API_VERSION}`, `kind: {KIND}`. The same YAML serves `kubectl apply` and `llm360 run`. Every field is
optional: what is not stated comes from the preset ([the presets](../presets.md)), then from the
built-in default below. `llm360 spec resolve FILE` prints the complete result.

Fields marked **identity** decide what the release contains: {", ".join(f"`{path}`" for path in IDENTITY)}.
They are hashed and never change once a run has begun. All others are operations and may change at any time; each
attempt records them.
"""


def reference_page() -> str:
    """The page in Markdown."""
    schema = spec_schema()
    parts = [_INTRODUCTION, *_section("spec", schema, "", default_layer())]
    return "\n".join(parts).rstrip("\n") + "\n"


def _section(title: str, schema: Schema, path: str, defaults: Any) -> Iterator[str]:
    """A heading, the table of an object's fields, then the objects inside it."""
    yield f"## {title}\n\n{schema['description']}\n"
    yield "| field | type | default | meaning |\n|---|---|---|---|"
    inner: list[tuple[str, Schema, str, Any]] = []
    for name, field in schema["properties"].items():
        field_path = f"{path}.{name}".removeprefix(".")
        default = defaults.get(name) if isinstance(defaults, dict) else None
        identity = " **identity**" if is_identity(field_path) else ""
        yield f"| `{name}` | {_type(field)} | {_default(default)} | {_escaped(field['description'])}{identity} |"
        if "properties" in field:
            inner.append((f"{title}.{name}", field, field_path, default))
        elif "properties" in field.get("items", {}):
            inner.append((f"{title}.{name}[]", field["items"], field_path, None))
    yield ""
    for section in inner:
        yield from _section(*section)


def _type(field: Schema) -> str:
    """The field's type with its bounds in words."""
    if "enum" in field:
        return " · ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        what = "object" if "properties" in field["items"] else _type(field["items"])
        return f"list of {what}, at most {field['maxItems']:,}"
    if field["type"] == "object":
        return "object" if "properties" in field else f"map of {_values(field)}, at most {field['maxProperties']}"
    if field["type"] in ("integer", "number"):
        return f"{field['type']}, {_bounds(field)}"
    return str(field["type"])


def _values(field: Schema) -> str:
    return f"{field['additionalProperties']['type']}s"


def _bounds(field: Schema) -> str:
    left = "(" if field.get("exclusiveMinimum") else "["
    right = ")" if field.get("exclusiveMaximum") else "]"
    return f"{left}{field['minimum']:,} … {field['maximum']:,}{right}"


def _default(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return ""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
