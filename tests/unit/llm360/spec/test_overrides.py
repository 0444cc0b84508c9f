"""Values from the command line."""

import pytest

from llm360.errors import InputError
from llm360.spec.overrides import apply_override, parse_override


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("training.batchSize=64", ("spec", "training", "batchSize"), 64),
        ("spec.training.seed=1", ("spec", "training", "seed"), 1),
        ("metadata.name=other", ("metadata", "name"), "other"),
        ("data.stages[0].steps=5", ("spec", "data", "stages", 0, "steps"), 5),
        ("data.stages.1.name=b", ("spec", "data", "stages", 1, "name"), "b"),
        ("storage.uri=s3://b/x?a=b", ("spec", "storage", "uri"), "s3://b/x?a=b"),
        ("checkpoints.schedule.steps=[1, 2, 4]", ("spec", "checkpoints", "schedule", "steps"), [1, 2, 4]),
        (
            r"cluster.workers.nodeSelector.cloud\.org/pool=a",
            ("spec", "cluster", "workers", "nodeSelector", "cloud.org/pool"),
            "a",
        ),
        ("training.steps=", ("spec", "training", "steps"), None),
    ],
)
def test_path_and_value(text, path, value):
    assert parse_override(text) == (path, value)


@pytest.mark.parametrize("text", ["training.batchSize", "=3", "training..seed=1", ".seed=1", ""])
def test_what_is_no_assignment_is_refused(text):
    with pytest.raises(InputError, match="is no assignment; write it like --set"):
        parse_override(text)


@pytest.mark.parametrize(
    ("before", "text", "after"),
    [
        ({}, "a.b=1", {"a": {"b": 1}}),
        ({"a": {"b": 1}}, "a.b=null", {"a": {}}),
        ({}, "a.b=null", {"a": {}}),
        ({"l": [1, 2]}, "l[1]=3", {"l": [1, 3]}),
        ({"l": [1, 2]}, "l[2]=3", {"l": [1, 2, 3]}),
        ({"l": [1, 2]}, "l[0]=null", {"l": [2]}),
        ({}, "l[0].n=a", {"l": [{"n": "a"}]}),
        ({"m": {}}, "m.5=a", {"m": {"5": "a"}}),
    ],
)
def test_value_is_laid_over(before, text, after):
    root = {"spec": before}
    apply_override(root, text)
    assert root["spec"] == after


@pytest.mark.parametrize(
    ("before", "text", "message"),
    [
        ({"a": 1}, "a.b=2", "'b' does not lead on: before it stands 1, which has no fields"),
        ({"l": [1]}, "l.b=2", r"'b' stands where a list takes an index, for example \[0\]"),
        ({"l": [1]}, "l[3]=2", r"there is no \[3\]; the list has 1 entries"),
    ],
)
def test_path_that_leads_nowhere_is_refused(before, text, message):
    with pytest.raises(InputError, match=message):
        apply_override({"spec": before}, text)
