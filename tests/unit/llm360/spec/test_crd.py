"""The CustomResourceDefinition: what is committed is what the models give, and the API server can bound every rule."""

from pathlib import Path

import pytest
import yaml

from llm360.spec.cel import CEL_RULES
from llm360.spec.crd import crd
from llm360.spec.identity import IDENTITY
from llm360.spec.schema import openapi_schema, status_schema

COMMITTED = Path(__file__).parents[4] / "manifests" / "crd.yaml"


def nodes(schema):
    """A schema and all below it."""
    yield schema
    for member in schema.get("properties", {}).values():
        yield from nodes(member)
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield from nodes(schema[key])


def node_at(path):
    node = openapi_schema()
    for part in filter(None, path.split(".")):
        node = node["properties"][part.removesuffix("[]")]
        node = node["items"] if part.endswith("[]") else node
    return node


def version():
    (only,) = crd()["spec"]["versions"]
    return only


def test_committed_definition_is_the_generated_one():
    assert yaml.safe_load(COMMITTED.read_text()) == crd(), "run: llm360 spec crd > manifests/crd.yaml"


def test_nothing_has_a_default():
    assert [node for node in nodes(version()["schema"]["openAPIV3Schema"]) if "default" in node] == []


def test_status_is_described_bounded_and_a_subresource():
    assert version()["subresources"] == {"status": {}}
    for name, field in status_schema()["properties"].items():
        assert field["description"].endswith("."), name
    for node in nodes(status_schema()):
        if node["type"] == "string" and "enum" not in node:
            assert "maxLength" in node
        if node["type"] == "array":
            assert "maxItems" in node


def test_bounds_are_numbers_that_the_api_server_compares_rightly():
    # A whole number is held against a bound as int64: a larger one wraps around, and 0 is "greater" than 1e308.
    keys = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    for node in nodes(version()["schema"]["openAPIV3Schema"]):
        assert all(abs(node.get(key, 0)) < 2**63 for key in keys), node


def test_columns_show_fields_of_the_status():
    for column in version()["additionalPrinterColumns"]:
        path = column["jsonPath"]
        if path.startswith(".status.") and "?" not in path:
            assert path.removeprefix(".status.") in status_schema()["properties"], column["name"]


@pytest.mark.parametrize("rule", CEL_RULES, ids=lambda rule: f"{rule.path}-{rule.message[:40]}")
def test_a_rule_reads_fields_that_exist_and_says_which_is_wrong(rule):
    assert set(rule.reads) <= set(node_at(rule.path)["properties"])
    assert rule.message.startswith(("spec.", "metadata.name"))


def test_every_part_of_the_identity_is_guarded_at_the_root():
    rules = version()["schema"]["openAPIV3Schema"]["x-kubernetes-validations"]
    for path in IDENTITY:
        (rule,) = [rule for rule in rules if rule["message"].startswith(f"spec.{path} belongs")]
        assert rule["rule"].startswith("!(has(oldSelf.status) && has(oldSelf.status.configDigest)) || (")
        assert f"self.spec.{path} == oldSelf.spec.{path}" in rule["rule"]
