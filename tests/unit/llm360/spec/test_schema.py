"""The schema is what a CRD takes: structural, bounded, described, without defaults."""

from llm360.spec.schema import openapi_schema, spec_schema, status_schema

ALLOWED = {
    "type", "description", "properties", "items", "additionalProperties", "required", "enum", "format", "pattern",
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "maxItems", "maxProperties",
    "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
}  # fmt: skip


def nodes(schema, path):
    """Every schema at and below one, with its path."""
    yield path, schema
    for name, member in schema.get("properties", {}).items():
        yield from nodes(member, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key], f"{path}[]")


NODES = dict(nodes(spec_schema(), "spec"))
STATUS = dict(nodes(status_schema(), "status"))


def is_bounded(node):
    """Whether the API server can estimate what validating the node costs."""
    needed = {
        "integer": {"minimum", "maximum", "format"},
        "number": {"minimum", "maximum", "format"},
        "string": {"maxLength"} if "enum" not in node else set(),
        "array": {"maxItems"},
        "object": {"maxProperties"} if "properties" not in node else set(),
        "boolean": set(),
    }
    return needed[node["type"]] <= set(node)


def is_described(node):
    """Whether `kubectl explain` says something, and of a number its unit."""
    text = node.get("description", "")
    return text.endswith(".") and (node["type"] not in ("integer", "number") or "Unit: " in text)


def test_nodes_are_structural_without_defaults():
    assert [path for path, node in NODES.items() if not (set(node) <= ALLOWED and isinstance(node["type"], str))] == []
    assert [path for path, node in NODES.items() if {"properties", "additionalProperties"} <= set(node)] == []


def test_nodes_are_bounded():
    assert [path for path, node in NODES.items() if not is_bounded(node)] == []


def test_fields_are_described():
    assert [path for path, node in NODES.items() if not path.endswith("[]") and not is_described(node)] == []


def test_bounds_of_numbers_are_integers_of_64_bits():
    """The API server compares a number that is written without a point with the bound as such an integer."""
    wide = 2**63
    bounds = {path: [node.get("minimum", 0), node.get("maximum", 0)] for path, node in (NODES | STATUS).items()}
    assert [path for path, pair in bounds.items() if max(map(abs, pair)) >= wide] == []


def test_only_what_tells_list_entries_apart_is_required():
    assert {path for path, node in NODES.items() if "required" in node} == {
        "spec.data.stages[]",
        "spec.evaluation.tasks[]",
    }


def test_sections_are_those_of_the_design():
    assert list(spec_schema()["properties"]) == [
        "preset", "model", "tokenizer", "data", "training", "parallelism", "checkpoints", "recovery", "evaluation",
        "storage", "cluster", "release", "suspend",
    ]  # fmt: skip


def test_root_is_that_of_a_kubernetes_object():
    schema = openapi_schema()
    assert schema["required"] == ["spec"]
    assert list(schema["properties"]) == ["apiVersion", "kind", "metadata", "spec", "status"]


def test_bounds_that_are_excluded_are_said_as_openapi_3_0_says_them():
    beta1 = NODES["spec.training.optimizer.beta1"]
    assert (beta1["maximum"], beta1["exclusiveMaximum"]) == (1, True)
    assert "exclusiveMinimum" not in beta1
