"""The definition against the last released one; and every kind of change that would break a stored object."""

import copy
from pathlib import Path

import pytest
import yaml

from llm360.cli.main import run
from llm360.spec.compatibility import breaking_changes
from llm360.spec.crd import crd

RELEASED = Path(__file__).parents[4] / "manifests" / "released" / "crd.yaml"


@pytest.fixture
def changed():
    """Makes the present definition with one change; the function gets `spec`, `status` and the whole."""

    def make(change):
        found = copy.deepcopy(crd())
        schema = found["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
        change(schema["spec"]["properties"], schema["status"]["properties"], found)
        return found

    return make


def test_the_released_definitions_objects_are_still_taken():
    assert breaking_changes(yaml.safe_load(RELEASED.read_text()), crd()) == []


BREAKS = [
    (lambda spec, *_: spec.pop("recovery"), "spec.recovery: it is gone"),
    (lambda spec, *_: spec["training"]["properties"].pop("seed"), "spec.training.seed: it is gone"),
    (lambda *three: three[1].pop("ledgerHead"), "status.ledgerHead: it is gone"),
    (lambda spec, *_: spec["suspend"].update(type="string"), "spec.suspend: its type is string and was boolean"),
    (
        lambda spec, *_: spec["training"]["properties"]["batchSize"].update(type="string"),
        "spec.training.batchSize: its type is string and was integer",
    ),
    (
        lambda spec, *_: spec["cluster"]["properties"]["workers"]["properties"]["device"]["enum"].remove("cpu"),
        "spec.cluster.workers.device: 'cpu' is no longer allowed",
    ),
    (lambda spec, *_: spec["preset"].update(enum=["amber-7b"]), "spec.preset: only amber-7b are allowed"),
    (
        lambda spec, *_: spec["cluster"]["properties"]["workers"]["properties"]["replicas"].update(maximum=8),
        "spec.cluster.workers.replicas: maximum is 8 and was 100000",
    ),
    (
        lambda spec, *_: spec["cluster"]["properties"]["workers"]["properties"]["replicas"].update(minimum=2),
        "spec.cluster.workers.replicas: minimum is 2 and was 1",
    ),
    (
        lambda spec, *_: spec["cluster"]["properties"]["workers"]["properties"]["replicas"].update(
            exclusiveMinimum=True
        ),
        "spec.cluster.workers.replicas: minimum is 1 (itself left out) and was 1",
    ),
    (lambda spec, *_: spec["preset"].update(maxLength=5), "spec.preset: maxLength is 5 and was 253"),
    (lambda spec, *_: spec["preset"].update(pattern="^a"), "spec.preset: its pattern is ^a and was"),
    (
        lambda spec, *_: spec["data"]["properties"]["stages"].update(minItems=2),
        "spec.data.stages: minItems is 2 and was",
    ),
    (
        lambda spec, *_: spec["data"]["properties"]["stages"]["items"]["properties"].pop("mix"),
        "spec.data.stages[].mix: it is gone",
    ),
    (lambda spec, *_: spec["storage"].update(required=["uri"]), "spec.storage: uri is required and was not"),
    (
        lambda spec, *_: spec["model"].update({"x-kubernetes-validations": [{"rule": "self.layers > 1"}]}),
        "spec.model: a rule that was not there: self.layers > 1",
    ),
    (
        lambda *three: three[1]["conditions"].pop("x-kubernetes-list-map-keys"),
        "status.conditions: x-kubernetes-list-map-keys is None and was ['type']",
    ),
    (lambda *three: three[2]["spec"].update(scope="Cluster"), "scope is 'Cluster' and was 'Namespaced'"),
    (lambda *three: three[2]["spec"]["names"].update(plural="runs"), "names.plural is 'runs'"),
    (lambda *three: three[2]["spec"]["versions"][0].update(served=False), "version v1alpha1 is no longer served"),
    (lambda *three: three[2]["spec"]["versions"][0].pop("subresources"), "version v1alpha1 has lost a subresource"),
]


@pytest.mark.parametrize(("change", "said"), BREAKS, ids=[said[:50] for _, said in BREAKS])
def test_what_breaks_stored_objects_is_found(changed, change, said):
    found = breaking_changes(crd(), changed(change))
    assert len(found) == 1
    assert found[0].startswith(said)


WIDER = [
    lambda spec, *_: spec.update(more={"type": "object", "required": ["x"], "properties": {"x": {"type": "string"}}}),
    lambda spec, *_: spec["cluster"]["properties"]["workers"]["properties"]["device"]["enum"].append("tpu"),
    lambda spec, *_: spec["cluster"]["properties"]["workers"]["properties"]["device"].pop("enum"),
    lambda spec, *_: spec["preset"].update(maxLength=300),
    lambda spec, *_: spec["preset"].pop("pattern"),
    lambda spec, *_: spec["cluster"]["properties"]["workers"]["properties"]["replicas"].update(minimum=0),
    lambda spec, *_: spec["training"]["properties"]["batchSize"].update(type="number", format="double"),
    lambda spec, *_: spec["data"]["properties"]["stages"].pop("maxItems"),
    lambda spec, *_: spec["preset"].update(description="Otherwise said."),
    lambda *three: three[2]["spec"]["versions"][0]["additionalPrinterColumns"].clear(),
]


@pytest.mark.parametrize("change", WIDER)
def test_what_only_adds_is_none(changed, change):
    assert breaking_changes(crd(), changed(change)) == []


def test_the_command_compares_with_a_released_file(changed, tmp_path, capsys):
    assert run(["spec", "crd", "--since", str(RELEASED)]) == 0
    assert capsys.readouterr().out == "nothing that breaks stored objects\n"
    had_more = changed(lambda spec, *_: spec["training"]["properties"].update(old={"type": "string"}))
    (tmp_path / "crd.yaml").write_text(yaml.safe_dump(had_more))
    assert run(["spec", "crd", "--since", str(tmp_path / "crd.yaml")]) == 1
    assert capsys.readouterr().out.startswith("spec.training.old: it is gone; the API server would drop it")


@pytest.mark.parametrize("text", ["{", "[]", "kind: LLM360Run", "kind: CustomResourceDefinition"])
def test_a_file_that_is_no_definition_is_bad_input(text, tmp_path, capsys):
    (tmp_path / "crd.yaml").write_text(text)
    assert run(["spec", "crd", "--since", str(tmp_path / "crd.yaml")]) == 2
    assert "is no CustomResourceDefinition" in capsys.readouterr().err
