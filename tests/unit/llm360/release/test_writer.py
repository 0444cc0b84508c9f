"""Claims, commits, fencing, and repeating any of them after an unknown outcome."""

from __future__ import annotations

import pytest

from llm360.errors import FencedError, InputError, StorageUnavailableError
from llm360.release.create import create_release
from llm360.release.entries import Stage, StageDigests
from llm360.release.layout import environment_key
from llm360.release.ledger import Ledger
from llm360.release.verify import verify
from llm360.release.writer import TrainingWriter, data_between

CLAIM = {"world_size": 2, "device": "cpu", "operations": {"workers": 2}, "environment": {"commit": "0"}}


def stage(index=0, step=0, tokens=0, **changes):
    values = {
        "attempt": 1,
        "step": step,
        "tokens": tokens,
        "stage": index,
        "name": f"stage{index}",
        "num_steps": 4,
        "data": f"data/{index}",
        "chunk_rows": (10, 10),
        "batch_rows": 4,
        "remainder": "drop",
        "predictions": 8,
        "digests": StageDigests(manifest="sha256:" + "0" * 64),
    }
    return Stage(**values | changes)


@pytest.fixture
def ledger(memory):
    return create_release(memory, {"a": 1})


def test_claims_count_up_and_come_before_any_byte(memory, ledger):
    def claim_first(key, data):
        assert environment_key(1) not in memory.objects
        memory.create_now(key, data)

    memory.on_create = claim_first
    assert TrainingWriter(ledger).claim(**CLAIM) == 1
    assert environment_key(1) in memory.objects
    memory.on_create = None
    assert TrainingWriter(Ledger(memory)).claim(**CLAIM) == 2


def test_claim_may_be_forbidden_by_the_history_it_is_built_on(memory, ledger):
    def allow(history):
        if history.attempts_since_checkpoint >= 1:
            raise InputError("recovery is spent")

    TrainingWriter(ledger).claim(**CLAIM, allow=allow)
    with pytest.raises(InputError, match="spent"):
        TrainingWriter(ledger).claim(**CLAIM, allow=allow)
    assert ledger.history().attempt == 1


def test_no_claim_of_a_complete_run(builder):
    builder.start()
    builder.checkpoint(0, "init")
    builder.writer.complete()
    with pytest.raises(InputError, match="is complete") as caught:
        builder.start()
    assert caught.value.reason == "AlreadyComplete"


def test_older_attempt_is_fenced_and_writes_nothing_more(memory, ledger):
    old, new = TrainingWriter(ledger), TrainingWriter(Ledger(memory))
    old.claim(**CLAIM)
    old.check_fenced()
    new.claim(**CLAIM)
    before = dict(memory.objects)
    for act in (
        old.check_fenced,
        lambda: old.metrics(1, 1, 32, b"segment"),
        lambda: old.stage(stage()),
        lambda: old.skip(0, 0, 0, [0], "why"),
        lambda: old.rewind(0, None, "why"),
        old.complete,
    ):
        with pytest.raises(FencedError, match=r"attempt 2 has claimed the run .* this is attempt 1"):
            act()
    assert memory.objects == before
    new.check_fenced()


def test_claim_between_look_and_commit_fences_too(memory, ledger):
    old = TrainingWriter(ledger)
    old.claim(**CLAIM)

    def beaten(key, data):
        memory.on_create = None
        TrainingWriter(Ledger(memory)).claim(**CLAIM)
        memory.create_now(key, data)

    memory.on_create = beaten
    with pytest.raises(FencedError):
        old.skip(0, 0, 0, [0], "why")
    assert [entry.kind for entry in Ledger(memory).entries()] == ["genesis", "attempt", "attempt"]


@pytest.mark.parametrize("took_effect", [True, False])
def test_every_commit_may_be_repeated_after_an_unknown_outcome(memory, ledger, took_effect):
    writer = TrainingWriter(ledger)

    def lose(key, data):
        memory.on_create = None
        if took_effect:
            memory.create_now(key, data)
        raise StorageUnavailableError("no answer")

    acts = [
        lambda: writer.claim(**CLAIM),
        lambda: writer.stage(stage()),
        lambda: writer.metrics(1, 1, 32, b"segment"),
        lambda: writer.skip(1, 32, 0, [1], "why"),
        lambda: writer.rewind(1, None, "why"),
    ]
    for act in acts:
        memory.on_create = lose
        with pytest.raises(StorageUnavailableError):
            act()
        act()
        act()
    kinds = [entry.kind for entry in Ledger(memory).entries()]
    assert kinds == ["genesis", "attempt", "stage", "metrics", "skip", "rewind"]


def test_stage_pinned_by_an_earlier_attempt_is_not_pinned_again(memory, ledger):
    TrainingWriter(ledger).claim(**CLAIM)
    first, second = TrainingWriter(ledger), TrainingWriter(ledger)
    first.claim(**CLAIM)
    entry = first.stage(stage(attempt=first.attempt))
    second.claim(**CLAIM)
    assert second.stage(stage(attempt=second.attempt, data="s3://elsewhere/copy")) == entry
    with pytest.raises(InputError, match=r"data of stage 0 .* has changed .* chunk_rows is \(10, 9\)") as caught:
        second.stage(stage(attempt=second.attempt, chunk_rows=(10, 9)))
    assert caught.value.reason == "DataChanged"


def test_checkpoint_entry_tells_what_led_to_it(builder):
    builder.start()
    builder.pin_stages()
    builder.checkpoint(0, "init")
    builder.metrics(1, 2)
    builder.metrics(3, 3)
    builder.checkpoint(3, published=False)
    builder.metrics(4, 5)
    builder.checkpoint(5, "later")
    history = builder.ledger.history()
    init, third, fifth = (known.body for known in history.branch)
    assert (init.previous, init.data, init.metrics, init.stage, init.chunk) == (None, (), (), None, None)
    assert third.previous == history.branch[0].name
    assert [list(span.rows) for span in third.data] == [[(0, 0, 8), (1, 0, 4)]]
    assert len(third.metrics) == 2
    assert (third.stage, third.chunk) == (0, None)
    assert [(span.stage, span.first_step, span.last_step) for span in fifth.data] == [(0, 3, 3), (1, 0, 0)]
    assert fifth.stage == 1


def test_checkpoint_without_its_metrics_is_our_own_bug(builder):
    builder.start()
    builder.pin_stages()
    with pytest.raises(AssertionError, match="metrics of steps 1 to 2"):
        builder.checkpoint(2)


def test_restart_resumes_from_the_last_checkpoint_with_state(builder):
    builder.start()
    builder.pin_stages()
    builder.metrics(1, 2)
    builder.checkpoint(2, "ckpt_000")
    builder.metrics(3, 4)
    builder.checkpoint(4, "ckpt_001")
    last = builder.ledger.history().latest_checkpoint
    builder.writer.prune(last, ["state"], "to see")
    assert builder.ledger.history().resume_point().step == 2
    builder.start()
    assert builder.writer.claimed.step == 2
    builder.metrics(3, 4)
    builder.checkpoint(4, "ckpt_001")
    history = builder.ledger.history()
    assert [(known.step, known.body.attempt) for known in history.branch] == [(2, 1), (4, 2)]
    assert len(history.all_checkpoints) == 3
    report = verify(builder.storage)
    assert report.ok, report.first_fault


def test_data_between_crosses_stages():
    stages = [stage(), stage(1, step=4, tokens=128)]
    spans = data_between(stages, 1, 6)
    assert [(s.stage, s.first_step, s.last_step, s.rows) for s in spans] == [
        (0, 1, 3, ((0, 4, 8), (1, 0, 8))),
        (1, 0, 1, ((0, 0, 8),)),
    ]
    assert data_between(stages, 3, 3) == ()
