from __future__ import annotations

import json
from datetime import timedelta

import pytest

from llm360.errors import IntegrityError
from llm360.release.create import open_release
from llm360.release.history import History
from llm360.report.facts import name_of, read_facts


def facts_of(run, *, after=timedelta(seconds=1)):
    return read_facts(run.storage, open_release(run.storage).history(), run.now + after)


def test_complete_run(eventful):
    facts = facts_of(eventful)

    assert (facts.name, facts.preset, facts.phase) == ("amber-tiny", "amber-tiny", "complete")
    assert (facts.step, facts.total_steps) == (400, 400)
    assert facts.tokens == facts.total_tokens == 400 * 16 * 128
    assert (facts.attempts, facts.checkpoints, facts.evaluations) == (3, 9, 1)
    assert facts.last_checkpoint == "ckpt_007"
    assert (facts.head_seq, facts.head_digest) == (eventful.entries[-1].seq, eventful.entries[-1].name)
    assert facts.estimated_completion is None
    assert facts.recent_loss == pytest.approx(3.16, abs=0.1)
    assert facts.mfu is None


def test_run_in_progress_estimates_its_end(interrupted):
    facts = facts_of(interrupted)

    assert (facts.phase, facts.step, facts.total_steps, facts.last_checkpoint) == ("in progress", 110, 400, "ckpt_001")
    expected = interrupted.now + timedelta(seconds=290 * 0.315)
    assert abs(facts.estimated_completion - expected) < timedelta(seconds=3)


def test_silent_run_is_said_not_to_progress(interrupted):
    facts = facts_of(interrupted, after=timedelta(minutes=16))

    assert (facts.phase, facts.estimated_completion) == ("not progressing", None)


def test_new_attempt_shows_the_step_that_it_resumed_from(interrupted):
    interrupted.claim(next(e for e in reversed(interrupted.entries) if e.kind == "checkpoint"))

    assert facts_of(interrupted).step == 100


def test_run_before_its_first_step(interrupted):
    history = History.from_entries(interrupted.entries[:3])
    facts = read_facts(interrupted.storage, history, interrupted.now)

    assert (facts.step, facts.loss, facts.last_checkpoint, facts.total_steps) == (0, None, None, 400)


def test_stages_whose_length_nobody_knows_yet_leave_the_total_open(interrupted):
    history = History.from_entries(interrupted.entries[:2])

    assert read_facts(interrupted.storage, history, interrupted.now).total_steps is None


def test_facts_are_json(eventful):
    value = json.loads(json.dumps(facts_of(eventful).to_json(), allow_nan=False))

    assert value["lastEntryTime"].endswith("Z")
    assert value["headDigest"].startswith("sha256:")


def test_changed_configuration_is_refused(eventful):
    key = f"config/{eventful.config.removeprefix('sha256:')}.json"
    eventful.storage.put(key, b"{}")

    with pytest.raises(IntegrityError, match="the ledger names"):
        facts_of(eventful)


@pytest.mark.parametrize(
    ("uri", "name"),
    [("file:///data/my%20run", "my run"), ("s3://bucket/my%20run/", "my%20run"), ("s3://bucket", "bucket")],
)
def test_a_release_is_called_after_the_last_part_of_its_address(uri, name):
    assert name_of(uri) == name
