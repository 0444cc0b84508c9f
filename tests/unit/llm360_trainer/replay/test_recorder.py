"""The recorder of a replay: it keeps what is compared, says the first difference, and ends at the first failure."""

from __future__ import annotations

from typing import Any

import pytest

from llm360.release.checkpoint import tensors_digest
from llm360_trainer.replay.recorder import ReplayInput, ReplayRecorder
from llm360_trainer.replay.segment import StepLoss
from llm360_trainer.train.plan import AttemptPlan, Command, GroupInfo

PLAN = AttemptPlan(attempt=2, resume=None, skip=frozenset(), last_step=3)


@pytest.fixture
def recorder() -> ReplayRecorder:
    losses = {step: StepLoss(1.0, skipped=False) for step in (1, 2, 3)}
    return ReplayRecorder(ReplayInput(PLAN, losses, {"suspend": False}, None))


def test_it_keeps_what_was_made(recorder: ReplayRecorder, group: GroupInfo, make_record: Any, make_part: Any) -> None:
    assert recorder.begin_attempt(group) is PLAN
    for step in (1, 2, 3):
        assert recorder.record_step(make_record(step)) is Command.CONTINUE
    part = make_part(3)
    recorder.checkpoint_part(part)
    recorder.finish()
    update = recorder.drain()
    assert update.outcome is not None
    assert update.outcome.exit_code == 0
    assert [record.step for record in update.records] == [1, 2, 3]
    assert update.events == []
    made = recorder.result()
    assert made.losses == {step: StepLoss(1.0, skipped=False) for step in (1, 2, 3)}
    assert made.digests[3].model == tensors_digest(part.model)
    assert made.digests[3].state == tensors_digest(part.state)
    assert made.environment["libraries"] == {"torch": "0"}


def test_only_the_first_difference_is_said(recorder: ReplayRecorder, group: GroupInfo, make_record: Any) -> None:
    recorder.begin_attempt(group)
    for step, loss in ((1, 1.0), (2, 1.5), (3, 2.5)):
        recorder.record_step(make_record(step, loss=loss))
    assert [event.text for event in recorder.drain().events] == ["step 2: the loss is 1.5, recorded is 1.0"]


def test_a_second_group_has_nothing_to_do(recorder: ReplayRecorder, group: GroupInfo) -> None:
    recorder.begin_attempt(group)
    recorder.group_failed("rank 0: died")
    assert recorder.begin_attempt(group) is None
    outcome = recorder.drain().outcome
    assert outcome is not None
    assert (outcome.exit_code, outcome.message) == (1, "a worker failed: rank 0: died")


@pytest.mark.parametrize(
    ("end", "exit_code", "reason"),
    [
        (lambda recorder: recorder.fail("no GPU", "NoGPU", 2), 2, "NoGPU"),
        (lambda recorder: recorder.fall_back("sha256:…", "state/w has other bytes"), 1, "IntegrityFailed"),
        (lambda recorder: recorder.interrupt(130, "SIGINT"), 130, "Interrupted"),
    ],
)
def test_the_first_end_is_the_end(
    recorder: ReplayRecorder, group: GroupInfo, make_record: Any, end: Any, exit_code: int, reason: str
) -> None:
    recorder.begin_attempt(group)
    assert end(recorder) is None
    recorder.finish()
    outcome = recorder.drain().outcome
    assert outcome is not None
    assert (outcome.exit_code, outcome.reason) == (exit_code, reason)
    assert recorder.record_step(make_record(1)) is Command.STOP
