"""What follows from a complete run."""

import hashlib
import json

import pytest

from llm360.spec import load_run


@pytest.fixture
def staged():
    """A run of two stages, the second with its own data, batch and schedule."""
    stages = [
        {"name": "web"},
        {
            "name": "code",
            "uri": "s3://data/code",
            "batchSize": 8,
            "steps": 70,
            "remainder": "carry",
            "recipe": "other",
            "chunks": 2,
            "schedule": {"kind": "linear", "warmupSteps": 7},
        },
    ]
    return load_run("amber-tiny", [f"data.stages={json.dumps(stages)}", "training.steps=90"], store="s3://b/run")


def test_stage_takes_what_it_does_not_state(staged):
    web = staged.stages[0]
    assert (web.name, web.uri, web.recipe, web.chunks) == ("web", "s3://b/run/data/web", "python-stdlib", 8)
    assert (web.remainder, web.batch_size, web.steps) == ("drop", 32, 90)
    assert web.schedule == staged.spec.training.schedule


def test_stage_keeps_what_it_states(staged):
    code = staged.stages[1]
    assert (code.name, code.uri, code.recipe, code.chunks) == ("code", "s3://data/code", "other", 2)
    assert (code.remainder, code.batch_size, code.steps) == ("carry", 8, 70)
    assert (code.schedule.kind, code.schedule.warmup_steps, code.schedule.peak_learning_rate) == ("linear", 7, 2e-3)


def test_digest_is_the_sha256_of_canonical_json(staged):
    text = json.dumps(staged.identity(), sort_keys=True, separators=(",", ":"))
    # Python writes 1.0, 1e-06 and 3e-05 where RFC 8785 writes 1, 0.000001 and 0.00003.
    canonical = text.replace(".0,", ",").replace(".0}", "}").replace("1e-06", "0.000001").replace("1e-08", "1e-8")
    assert staged.identity_digest() == "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def test_run_cannot_be_changed(staged):
    with pytest.raises(ValueError, match="frozen"):
        staged.spec.training.seed = 1
