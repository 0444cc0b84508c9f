"""The OpenAPI v3 schema of LLM360Run, in the structural form that a CRD takes.

Made from the sections: nothing is required and nothing has a default below `spec`, since a value that the API
server filled in would silently win over the preset. References are written out, null is not a type.
"""

from __future__ import annotations

from typing import Any

from llm360.spec.base import Section
from llm360.spec.run import API_VERSION, KIND, ResolvedSpec
from llm360.spec.status import RunStatus

Schema = dict[str, Any]

_KEPT = ("type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems")
_FORMATS = {"integer": "int64", "number": "double"}


def openapi_schema() -> Schema:
    """The schema of the whole object; `metadata` is left to the API server."""
    return {
        "type": "object",
        "description": "A language model's pretraining, from its data to its release.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"Always {API_VERSION}."},
            "kind": {"type": "string", "description": f"Always {KIND}."},
            "metadata": {"type": "object"},
            "spec": spec_schema(),
            "status": status_schema(),
        },
    }


def spec_schema() -> Schema:
    """The schema of `spec`."""
    return _schema_of(ResolvedSpec) | {"description": "What is trained, on what, how and where."}


def status_schema() -> Schema:
    """The schema of `status`."""
    return _schema_of(RunStatus)


def _schema_of(section: type[Section]) -> Schema:
    schema = section.model_json_schema(by_alias=True)
    return _structural(schema, schema["$defs"])


def _structural(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """One node and all below it: references resolved, nullable unions opened, pydantic's forms made OpenAPI's."""
    schema = _inlined(schema, definitions)
    node: Schema = {"description": schema["description"]} if "description" in schema else {}
    node |= {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        node["enum"] = [schema["const"]]
    if schema["type"] in _FORMATS or "format" in schema:
        node["format"] = schema.get("format") or _FORMATS[schema["type"]]
    for bound in ("minimum", "maximum"):
        exclusive = f"exclusive{bound.capitalize()}"
        if exclusive in schema:
            node |= {bound: schema[exclusive], exclusive: True}
    if "properties" in schema:
        node["properties"] = {name: _structural(member, definitions) for name, member in schema["properties"].items()}
    elif schema["type"] == "object":
        (values,) = schema["patternProperties"].values()  # a CRD cannot state the form of keys
        node["additionalProperties"] = _structural(values, definitions)
        node["maxProperties"] = schema["maxProperties"]
    if "items" in schema:
        node["items"] = _structural(schema["items"], definitions)
    list_keys = schema.get("x-kubernetes-list-map-keys")
    if list_keys:  # what tells the entries of a list apart must be there
        node["items"]["required"] = list_keys
    return node | {key: value for key, value in schema.items() if key.startswith("x-kubernetes-")}


def _inlined(schema: Schema, definitions: dict[str, Schema]) -> Schema:
    """The node with what it refers to; its own words (a field's description) win over its type's."""
    while "$ref" in schema or "anyOf" in schema:
        if "anyOf" in schema:
            (inner,) = (option for option in schema["anyOf"] if option != {"type": "null"})
        else:
            inner = definitions[schema["$ref"].rsplit("/", 1)[-1]]
        schema = inner | {key: value for key, value in schema.items() if key not in ("$ref", "anyOf")}
    return schema
