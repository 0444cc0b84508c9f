"""Which configuration a run has after its object, or the operator, has changed."""

import copy
import json

import pytest

from llm360.canonical import canonical_json
from llm360.spec import resolved_from_json
from llm360_operator.plan import make_plan

RUN = {
    "apiVersion": "llm360.ai/v1alpha1",
    "kind": "LLM360Run",
    "metadata": {"name": "amber", "namespace": "research", "uid": "u-1", "generation": 1},
    "spec": {"preset": "amber-tiny", "storage": {"uri": "s3://b/amber"}, "evaluation": {"tasks": [{"name": "arc"}]}},
}
WORDS = {"license": "Apache-2.0", "description": "the small Amber", "authors": []}


@pytest.fixture
def older():
    """A run that an operator began which had words of the release in its presets and no `recovery.stopSeconds`."""
    plan = make_plan(RUN, {}, "trainer:1")
    document = json.loads(plan.document)
    document["spec"]["release"] = WORDS
    del document["spec"]["recovery"]["stopSeconds"]
    config = resolved_from_json(canonical_json(document))
    status = {"config": plan.name, "configDigest": config.identity_digest(), "configGeneration": 1}
    return RUN | {"status": status}, {plan.name: canonical_json(document)}


def edited(run, **changes):
    run = copy.deepcopy(run)
    run["metadata"]["generation"] += 1
    for path, value in changes.items():
        section, _, field = path.partition("__")
        run["spec"][section] = {**run["spec"].get(section, {}), field: value} if field else value
    return run


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"evaluation__maxRunning": 2},
        {"cluster__keepOnFailure": "1h"},
        {"suspend": True},
    ],
)
def test_what_disturbs_no_pod_does_not_after_an_upgrade_either(older, change):
    run, configs = older
    plan = make_plan(edited(run, **change), configs, "trainer:2")
    assert not plan.problem
    assert (plan.name, plan.document) == (run["status"]["config"], configs[run["status"]["config"]])


def test_an_older_image_is_given_no_field_that_it_may_not_know(older):
    run, configs = older
    plan = make_plan(edited(run, checkpoints__resumeEvery=5), configs, "trainer:2")
    spec = json.loads(plan.document)["spec"]
    assert spec["cluster"]["image"] == "trainer:1"
    assert spec["checkpoints"]["resumeEvery"] == 5
    assert "stopSeconds" not in spec["recovery"]
    assert spec["release"] == WORDS
    assert plan.config == resolved_from_json(plan.document)
    assert plan.config.spec.recovery.stop_seconds == 120


@pytest.mark.parametrize(
    ("change", "seconds"), [({"recovery__stopSeconds": 5}, 5), ({"cluster__image": "trainer:2"}, 120)]
)
def test_a_field_that_came_since_is_given_to_whoever_asks_for_it_or_has_another_image(older, change, seconds):
    run, configs = older
    plan = make_plan(edited(run, **change), configs, "trainer:2")
    assert json.loads(plan.document)["spec"]["recovery"]["stopSeconds"] == seconds


def test_words_that_the_object_states_are_the_releases(older):
    run, configs = older
    plan = make_plan(edited(run, release={"license": "MIT"}), configs, "trainer:2")
    assert json.loads(plan.document)["spec"]["release"] == {"license": "MIT", "authors": []}
