"""Which steps a replay trains anew, by what the chain said when their checkpoint was committed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from synthetic.release import eventful_release

from llm360.errors import InputError, IntegrityError
from llm360.release.create import open_release
from llm360.release.history import History
from llm360.storage import Storage, open_storage
from llm360_trainer.replay.launch import attempt_plan
from llm360_trainer.replay.segment import find_segment, moved, replayed_run
from llm360_trainer.train.plan import GroupInfo, StagePlan

CHUNK = 5


@pytest.fixture
def eventful(tmp_path: Path) -> tuple[Storage, History]:
    """Killed, a fallback, a rewind over a NaN, a pruned state."""
    storage = open_storage(str(tmp_path / "release"))
    eventful_release(storage, num_chunks=5, chunk_steps=CHUNK)
    return storage, open_release(storage).history()


def test_a_segment_is_what_lies_between_two_checkpoints(eventful: tuple[Storage, History]) -> None:
    storage, history = eventful
    segment = find_segment(storage, history, "latest")
    assert segment.start is not None
    assert (segment.start.body.labels, segment.end.body.labels) == (("ckpt_003",), ("ckpt_004",))
    assert list(segment.losses) == list(range(4 * CHUNK + 1, 5 * CHUNK + 1))
    assert segment.checkpoints == (segment.end,)
    assert segment.claim.attempt == segment.end.body.attempt
    assert segment.environment["format"] == "llm360-environment/1"


def test_the_losses_are_those_of_the_attempt_that_made_the_checkpoint(eventful: tuple[Storage, History]) -> None:
    storage, history = eventful
    given_up = next(c for c in history.all_checkpoints.values() if not history.is_on_branch(c.name))
    kept = next(c for c in history.branch if c.step == given_up.step)
    first, second = (find_segment(storage, history, checkpoint.name) for checkpoint in (given_up, kept))
    assert (first.claim.attempt, second.claim.attempt) == (1, 2)
    assert first.losses.keys() == second.losses.keys()
    assert first.losses != second.losses


def test_it_starts_where_a_state_is_kept(eventful: tuple[Storage, History]) -> None:
    storage, history = eventful
    segment = find_segment(storage, history, "ckpt_001")  # the state of ckpt_000 was pruned since
    assert segment.start is not None
    assert segment.start.body.labels == ("init",)
    assert [known.body.labels for known in segment.checkpoints] == [("ckpt_000",), ("ckpt_001",)]
    with pytest.raises(
        InputError, match=r"--from ckpt_000: .* was pruned; a replay to ckpt_001 can start from start, init"
    ):
        find_segment(storage, history, "ckpt_001", start="ckpt_000")
    with pytest.raises(InputError, match="--from ckpt_001: that checkpoint does not lie before ckpt_001"):
        find_segment(storage, history, "ckpt_001", start="ckpt_001")
    with pytest.raises(InputError, match="--from ckpt_003: that checkpoint does not lie before ckpt_001; a replay to"):
        find_segment(storage, history, "ckpt_001", start="ckpt_003")
    with pytest.raises(InputError, match="there is no checkpoint 'ckpt_009'"):
        find_segment(storage, history, "ckpt_001", start="ckpt_009")


def test_the_untrained_model_is_a_start_and_an_end(eventful: tuple[Storage, History]) -> None:
    storage, history = eventful
    whole = find_segment(storage, history, "ckpt_000", start="start")
    assert (whole.start, whole.first_step, len(whole.losses)) == (None, 0, CHUNK)
    assert [known.body.labels for known in whole.checkpoints] == [("init",), ("ckpt_000",)]
    init = find_segment(storage, history, "init")
    assert (init.start, init.last_step, dict(init.losses), init.checkpoints) == (None, 0, {}, (init.end,))


def test_only_some_steps(eventful: tuple[Storage, History]) -> None:
    storage, history = eventful
    segment = find_segment(storage, history, "latest", steps=2)
    assert (segment.last_step, len(segment.losses), segment.checkpoints) == (4 * CHUNK + 2, 2, ())
    for steps in (0, CHUNK + 1):
        with pytest.raises(InputError, match=f"--steps {steps}: from ckpt_003 to ckpt_004 there are {CHUNK}"):
            find_segment(storage, history, "latest", steps=steps)


def test_one_checkpoint_is_meant(eventful: tuple[Storage, History]) -> None:
    with pytest.raises(InputError, match="'init,latest' means 2 checkpoints; a replay leads to one"):
        find_segment(*eventful, "init,latest")


def test_changed_records_are_refused(eventful: tuple[Storage, History], tmp_path: Path) -> None:
    storage, history = eventful
    path = tmp_path / "release" / f"environment/a{history.branch[-1].body.attempt:03d}.json"
    path.write_bytes(path.read_bytes().replace(b"llm360", b"llm361"))
    with pytest.raises(IntegrityError, match="but the ledger names"):
        find_segment(storage, history, "latest")


def test_steps_are_left_out_as_they_were_when_the_checkpoint_was_made(
    make_run: Any,
    start_recorder: Any,
    group: GroupInfo,
    make_record: Any,
    make_part: Any,
    store: Path,
    stage: StagePlan,
) -> None:
    """A step that is left out after a checkpoint was trained on before it."""
    recorder = start_recorder(make_run("recovery.nonFinite=skip"))
    recorder.begin_attempt(group)
    recorder.checkpoint_part(make_part(0))
    recorder.nonfinite(1, "step 2: loss nan")
    for step in range(1, 9):
        recorder.record_step(make_record(step))
        if step % 4 == 0:
            recorder.checkpoint_part(make_part(step))
            recorder.nonfinite(step - 1, "too late to count")
    recorder.flush()
    storage = open_storage(str(store))
    history = open_release(storage).history()
    segment = find_segment(storage, history, "4", start="start")
    plan = attempt_plan(storage, segment, (stage,))
    assert (plan.attempt, plan.resume, plan.skip, plan.last_step) == (1, None, {1}, 4)


class TestReplayedRun:
    @pytest.fixture
    def history(self, make_run: Any, start_recorder: Any, group: GroupInfo, store: Path) -> History:
        start_recorder(make_run("parallelism.microBatch=2")).begin_attempt(group)
        return open_release(open_storage(str(store))).history()

    def test_it_is_the_run_as_the_attempt_ran_it(self, history: History, make_run: Any, store: Path) -> None:
        run = replayed_run(open_storage(str(store)), history, history.attempts[0])
        assert run.spec == make_run("parallelism.microBatch=2").spec

    def test_a_copy_reads_its_own_data(self, history: History, store: Path, tmp_path: Path) -> None:
        store.rename(tmp_path / "copy")
        copy = open_storage(str(tmp_path / "copy"))
        run = moved(replayed_run(copy, history, history.attempts[0]), copy.uri)
        assert run.store == copy.uri
        assert run.stages[0].uri == f"{copy.uri}/data/stage1"

    def test_what_is_done_elsewhere_may_change_but_not_what_is_trained(self, history: History, store: Path) -> None:
        storage, claim = open_storage(str(store)), history.attempts[0]
        run = replayed_run(storage, history, claim, ["cluster.workers.replicas=1", 'data.uri="file:///copy"'])
        assert (run.spec.cluster.world_size, run.stages[0].uri) == (1, "file:///copy")
        with pytest.raises(InputError, match=r"another run: spec\.training\.seed: was 11111, is now 3\. A replay may"):
            replayed_run(storage, history, claim, ["training.seed=3"])

    def test_another_configuration_is_refused(self, history: History, store: Path) -> None:
        (path,) = (store / "config").iterdir()
        path.write_text(json.dumps(json.loads(path.read_text()) | {"preset": "amber-7b"}))
        with pytest.raises(IntegrityError, match="but the ledger names"):
            replayed_run(open_storage(str(store)), history, history.attempts[0])
