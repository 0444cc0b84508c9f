"""The recorder: what it commits, when it ends a run, and what it answers to the ranks."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm360.errors import StorageUnavailableError
from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.metrics import run_table
from llm360.release.verify import verify
from llm360.release.writer import TrainingWriter
from llm360.storage import open_storage
from llm360_trainer.driver import recorder as module
from llm360_trainer.driver.recorder import Recorder
from llm360_trainer.train.plan import Command, GroupInfo, WorkerReport


def history(store: Path) -> History:
    return open_release(open_storage(str(store))).history()


@pytest.fixture
def train_to(make_record: Any, make_part: Any) -> Callable[..., None]:
    """Hands over the records of steps, and a checkpoint after each fourth."""

    def train(recorder: Recorder, first: int, last: int, attempt: int = 1) -> None:
        for step in range(first, last + 1):
            assert recorder.record_step(make_record(step, attempt)) is Command.CONTINUE
            if step % 4 == 0:
                recorder.checkpoint_part(make_part(step, attempt))
        recorder.flush()

    return train


def test_a_run_from_claim_to_completion(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_part: Any, train_to: Any, store: Path
) -> None:
    recorder = start_recorder(make_run())
    plan = recorder.begin_attempt(group)
    assert (plan.attempt, plan.resume, plan.skip) == (1, None, frozenset())
    recorder.checkpoint_part(make_part(0))
    train_to(recorder, 1, 8)
    recorder.finish()
    assert recorder.drain().outcome.exit_code == 0
    said = history(store)
    assert [c.body.labels for c in said.branch] == [("init",), ("ckpt_000",), ("ckpt_001",)]
    assert [c.body.chunk for c in said.branch] == [None, 0, 1]
    assert [c.body.tokens for c in said.branch] == [0, 4 * 8 * 256, 8 * 8 * 256]
    assert said.complete is not None
    assert verify(open_storage(str(store)), bytes="none").ok


def test_the_next_attempt_goes_on_from_the_last_committed_checkpoint(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    first = start_recorder(make_run())
    first.begin_attempt(group)
    train_to(first, 1, 6)
    plan = start_recorder(make_run()).begin_attempt(group)
    assert plan.attempt == 2
    assert plan.resume.manifest.step == 4
    assert plan.first_step == 4


def test_an_older_driver_is_fenced_by_a_newer_claim(
    make_run: Any,
    start_recorder: Any,
    group: GroupInfo,
    make_record: Any,
    make_part: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FENCE_SECONDS", 0.01)
    older = start_recorder(make_run())
    older.begin_attempt(group)
    start_recorder(make_run()).begin_attempt(group)
    deadline = time.monotonic() + 20
    while (outcome := older.drain().outcome) is None:
        assert time.monotonic() < deadline, "the older driver was not fenced"
    assert (outcome.exit_code, outcome.reason) == (3, "Fenced")
    assert older.record_step(make_record(1)) is Command.STOP
    older.checkpoint_part(make_part(0))
    assert older.begin_attempt(group) is None


def test_a_fenced_driver_commits_nothing(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any, store: Path
) -> None:
    older = start_recorder(make_run())
    older.begin_attempt(group)
    newer = TrainingWriter(open_release(open_storage(str(store))))
    newer.claim(world_size=1, device="cpu", operations={}, environment={})
    entries = history(store).entries
    train_to(older, 1, 4)
    assert older.drain().outcome.exit_code == 3
    assert history(store).entries == entries


def test_attempts_without_a_checkpoint_are_counted(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    recorder = start_recorder(make_run("recovery.maxAttempts=2"))
    recorder.begin_attempt(group)
    train_to(recorder, 1, 4)  # a checkpoint: counting starts again
    assert recorder.begin_attempt(group).attempt == 2
    assert recorder.begin_attempt(group).attempt == 3
    recorder.fail("ValueError: no luck", "WorkerFailed", 1)
    assert recorder.begin_attempt(group) is None
    outcome = recorder.drain().outcome
    assert (outcome.exit_code, outcome.reason) == (4, "AttemptsExhausted")
    assert "no luck" in outcome.message


def test_groups_that_claim_no_attempt_are_counted_too(
    make_run: Any, start_recorder: Any, group: GroupInfo, store: Path
) -> None:
    recorder = start_recorder(make_run("recovery.maxAttempts=3"))
    recorder.group_failed("rank 1 died: once")
    recorder.begin_attempt(group)
    recorder.group_failed("rank 1 died: it is counted by its claim")
    recorder.fail("ModuleNotFoundError: No module named 'x'", "WorkerFailed", 1)
    recorder.group_failed("rank 1 died: it has said why")
    assert recorder.begin_attempt(group) is None
    update = recorder.drain()
    assert [event.text for event in update.events if "failed" in event.text] == [
        "a worker failed: rank 1 died: once",
        "a worker failed: ModuleNotFoundError: No module named 'x'",
    ]
    assert (update.outcome.exit_code, update.outcome.reason) == (4, "AttemptsExhausted")
    assert update.outcome.message.startswith("3 attempts ended without a new checkpoint")
    assert update.outcome.message.endswith("the last failure was: ModuleNotFoundError: No module named 'x'")
    assert history(store).attempt == 1


@pytest.mark.parametrize("exit_code", [2, 3])
def test_a_rank_whose_failure_no_retry_mends_ends_the_run(
    make_run: Any, start_recorder: Any, group: GroupInfo, exit_code: int
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    recorder.fail("no GPU", "NoGPU", exit_code)
    assert recorder.drain().outcome.exit_code == exit_code
    assert recorder.begin_attempt(group) is None


def test_a_checkpoint_whose_manifest_is_spoiled_is_passed_over(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any, store: Path
) -> None:
    first = start_recorder(make_run())
    first.begin_attempt(group)
    train_to(first, 1, 8)
    newest = history(store).branch[-1]
    (store / newest.body.prefix / "manifest.json").write_bytes(b"{}")
    plan = start_recorder(make_run()).begin_attempt(group)
    assert plan.first_step == 4
    (fallback,) = history(store).fallbacks
    assert fallback.refused == (newest.name,)


def test_a_checkpoint_that_ranks_refuse_is_passed_over(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any, store: Path
) -> None:
    first = start_recorder(make_run())
    first.begin_attempt(group)
    train_to(first, 1, 4)
    second = start_recorder(make_run())
    plan = second.begin_attempt(group)
    plan = second.fall_back(plan.resume.name, "state/a is missing")
    assert plan.resume is None
    assert history(store).fallbacks[0].reason == "state/a is missing"


@pytest.mark.parametrize("spoiled", ["manifest", "files"])
def test_an_attempt_never_trains_again_to_a_checkpoint_of_its_own(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_part: Any, train_to: Any, store: Path, spoiled: str
) -> None:
    """It would write into the folder of the refused one, whose retention deletes all that lies there."""
    recorder = start_recorder(make_run("recovery.nonFinite=rewind", "recovery.maxAttempts=1"))
    assert not recorder.begin_attempt(group).needs_new_attempt
    recorder.checkpoint_part(make_part(0))
    train_to(recorder, 1, 6)
    own = history(store).branch[-1]
    if spoiled == "manifest":
        (store / own.body.prefix / "manifest.json").write_bytes(b"{}")
        plan = recorder.rewind(6, "step 7: loss nan")
    else:
        plan = recorder.rewind(6, "step 7: loss nan")
        assert (plan.first_step, plan.needs_new_attempt) == (4, False)
        plan = recorder.fall_back(plan.resume.name, "state/a is missing")
    assert (plan.attempt, plan.first_step, plan.needs_new_attempt) == (1, 0, True)
    recorder.fail("a new attempt goes on from there", "CheckpointRefused", 1)
    recorder.group_failed("rank 0")
    plan = recorder.begin_attempt(group)
    assert (plan.attempt, plan.first_step, plan.skip, plan.needs_new_attempt) == (2, 0, {6}, False)
    train_to(recorder, 1, 8, attempt=2)
    recorder.finish()
    assert [(c.step, c.body.attempt) for c in history(store).branch] == [(0, 1), (4, 2), (8, 2)]
    assert verify(open_storage(str(store)), bytes="none").ok


def test_a_first_checkpoint_of_its_own_is_not_written_again_either(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_part: Any, store: Path
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    recorder.checkpoint_part(make_part(0))
    recorder.flush()
    assert recorder.fall_back(history(store).branch[-1].name, "state/a is missing").needs_new_attempt


def test_an_older_attempts_own_checkpoints_are_no_reason_to_start_again(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    first = start_recorder(make_run())
    first.begin_attempt(group)
    train_to(first, 1, 8)
    second = start_recorder(make_run())
    plan = second.begin_attempt(group)
    plan = second.fall_back(plan.resume.name, "state/a is missing")
    assert (plan.first_step, plan.needs_new_attempt) == (4, False)


def test_who_is_asked_to_stop_checkpoints_the_steps_since_the_last_checkpoint(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, make_part: Any, train_to: Any, store: Path
) -> None:
    recorder = start_recorder(make_run("recovery.stopSeconds=77"))
    recorder.begin_attempt(group)
    train_to(recorder, 1, 6)
    recorder.interrupt(143, "SIGTERM")
    update = recorder.drain()
    assert update.outcome is None
    assert "SIGTERM: checkpointing the 2 steps since the last checkpoint" in update.events[-1].text
    assert "at most 77 s" in update.events[-1].text
    assert recorder.record_step(make_record(7)) is Command.CHECKPOINT
    recorder.checkpoint_part(make_part(7))
    recorder.stopped(7)
    outcome = recorder.drain().outcome
    assert (outcome.exit_code, outcome.reason) == (143, "Interrupted")
    assert outcome.message == "interrupted after step 7, which is checkpointed; run it again to go on from there"
    assert [(c.step, c.body.published) for c in history(store).branch] == [(4, True), (7, False)]
    assert history(store).covers(1, 7)
    assert start_recorder(make_run()).begin_attempt(group).first_step == 7
    assert verify(open_storage(str(store)), bytes="none").ok


def test_a_checkpoint_that_was_not_committed_is_not_claimed_at_the_end(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, make_part: Any, train_to: Any
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    train_to(recorder, 1, 2)
    recorder.interrupt(130, "SIGINT")
    recorder.checkpoint_part(make_part(3).model_copy(update={"groups": ()}))
    recorder.stopped(3)
    assert recorder.drain().outcome.message == "interrupted; run it again to go on"


def test_who_is_asked_to_stop_once_more_stops_at_once(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, train_to: Any, store: Path
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    train_to(recorder, 1, 2)
    recorder.interrupt(143, "SIGTERM")
    recorder.interrupt(143, "SIGTERM")
    update = recorder.drain()
    assert "the checkpoint is not committed in 120 s; stopping without it" in update.events[-1].text
    assert update.outcome.exit_code == 143
    assert recorder.record_step(make_record(3)) is Command.STOP
    recorder.flush()
    assert history(store).covers(1, 3)


@pytest.mark.parametrize("case", ["nothing made", "nothing new", "group gone", "store away", "not wanted", "new group"])
def test_who_has_nothing_to_checkpoint_stops_at_once(
    case: str, make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    recorder = start_recorder(
        make_run("recovery.backoffSeconds=0", f"recovery.stopSeconds={120 * (case != 'not wanted')}")
    )
    recorder.begin_attempt(group)
    train_to(recorder, 1, {"nothing made": 0, "nothing new": 4}.get(case, 6))
    if case == "group gone":
        recorder.group_failed("rank 0 died")
    elif case == "store away":
        recorder._commits.is_store_away = True
    elif case == "new group":
        recorder.begin_attempt(group)
    recorder.interrupt(130, "SIGINT")
    update = recorder.drain()
    assert update.events[-1].text == "SIGINT: committing the records so far and stopping"
    assert update.outcome.exit_code == 130


def test_the_end_of_the_group_before_may_be_told_late(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    recorder = start_recorder(make_run("recovery.backoffSeconds=0"))
    recorder.begin_attempt(group)
    train_to(recorder, 1, 2)
    recorder.begin_attempt(group)
    recorder.group_failed("rank 0 died")
    train_to(recorder, 1, 2, attempt=2)
    assert recorder.status()["phase"] == "Training"
    recorder.interrupt(130, "SIGINT")
    assert recorder.drain().outcome is None, "it has two steps to checkpoint"


@pytest.mark.parametrize("end", ["a rank fails", "the group dies", "another group starts"])
def test_ranks_that_die_before_their_last_checkpoint_are_not_waited_for(
    end: str, make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    train_to(recorder, 1, 2)
    recorder.interrupt(130, "SIGINT")
    if end == "a rank fails":
        recorder.fail("OSError: disk full", "WorkerFailed", 1)
    elif end == "the group dies":
        recorder.group_failed("rank 0 died")
    else:
        assert recorder.begin_attempt(group) is None
    assert recorder.drain().outcome.exit_code == 130


def test_what_ranks_of_an_older_group_hand_over_is_not_taken_in(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, make_part: Any, train_to: Any, store: Path
) -> None:
    recorder = start_recorder(make_run())
    assert recorder.record_step(make_record(1)) is Command.STOP, "nothing is claimed yet"
    recorder.begin_attempt(group)
    train_to(recorder, 1, 2)
    recorder.begin_attempt(group)
    assert recorder.record_step(make_record(3, attempt=1)) is Command.STOP
    recorder.checkpoint_part(make_part(4, attempt=1))
    recorder.flush()
    assert recorder.status()["step"] == 2
    assert history(store).branch == []
    assert not history(store).covers(3, 3)
    train_to(recorder, 1, 4, attempt=2)
    assert [(c.step, c.body.attempt) for c in history(store).branch] == [(4, 2)]
    assert recorder.drain().outcome is None


def test_a_checkpoint_that_waited_for_its_turn_while_the_next_attempt_was_claimed_is_litter(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any, make_record: Any, make_part: Any, store: Path
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    claim = recorder._commit_metrics

    def hand_over_late(*last_step: int) -> None:
        recorder._commit_metrics = claim
        claim(*last_step)
        recorder.record_step(make_record(1))
        recorder.checkpoint_part(make_part(0))

    recorder._commit_metrics = hand_over_late
    assert recorder.begin_attempt(group).attempt == 2
    recorder.flush()
    assert history(store).branch == []
    assert not history(store).covers(1, 1)
    assert recorder.drain().outcome is None


def test_a_part_that_comes_twice_counts_once(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_part: Any, store: Path
) -> None:
    two_ranks = replace(group, ranks=group.ranks * 2)
    recorder = start_recorder(make_run())
    recorder.begin_attempt(two_ranks)
    first = make_part(0).model_copy(update={"world_size": 2})
    for _ in range(2):
        recorder.checkpoint_part(first)
    recorder.flush()
    assert (history(store).branch, recorder.drain().outcome) == ([], None)
    nothing = {"rank": 1, "groups": (), "files": (), "model": (), "state": ()}
    recorder.checkpoint_part(first.model_copy(update=nothing))
    recorder.flush()
    assert [c.step for c in history(store).branch] == [0]


def test_parts_that_are_no_whole_checkpoint_are_dropped_with_a_sentence(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_part: Any, train_to: Any, store: Path
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    recorder.checkpoint_part(make_part(0).model_copy(update={"groups": ()}))
    recorder.flush()
    update = recorder.drain()
    assert update.outcome is None
    assert update.events[-1].text.startswith("the checkpoint is incomplete: groups [] are there")
    train_to(recorder, 1, 4)
    assert [c.step for c in history(store).branch] == [4]
    recorder.finish()
    outcome = recorder.drain().outcome
    assert (outcome.exit_code, outcome.reason) == (1, "CheckpointIncomplete"), "a run ends with its last checkpoint"
    assert history(store).complete is None


def test_an_attempt_is_counted_once_although_the_store_goes_away_after_its_claim(
    make_run: Any, start_recorder: Any, group: GroupInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = start_recorder(make_run("recovery.maxAttempts=1"))
    storage = recorder._ledger.storage
    create = storage.create

    def fail_once(key: str, data: bytes) -> None:
        if b'"kind":"stage"' in data:
            monkeypatch.setattr(storage, "create", create)
            raise StorageUnavailableError("no answer")
        create(key, data)

    monkeypatch.setattr(storage, "create", fail_once)
    assert recorder.begin_attempt(group).attempt == 1
    assert recorder.drain().outcome is None


def test_the_status_names_the_newest_checkpoint_of_any_kind(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, make_part: Any
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    assert "lastCheckpointStep" not in recorder.status()
    for step in (0, 1, 2):
        if step:
            recorder.record_step(make_record(step))
        recorder.checkpoint_part(make_part(step))
        recorder.flush()
        assert recorder.status()["lastCheckpointStep"] == step
    assert [known["step"] for known in recorder.status()["checkpoints"]] == [0], "the others are not published"


class TestNonFinite:
    def test_skip(self, make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any, store: Path) -> None:
        recorder = start_recorder(make_run("recovery.nonFinite=skip"))
        recorder.begin_attempt(group)
        train_to(recorder, 1, 5)
        assert recorder.nonfinite(5, "step 6: loss nan") is Command.CONTINUE
        recorder.flush()
        assert history(store).skipped_steps(0) == {5}
        assert start_recorder(make_run()).begin_attempt(group).skip == {5}

    def test_rewind(
        self, make_run: Any, start_recorder: Any, group: GroupInfo, make_part: Any, train_to: Any, store: Path
    ) -> None:
        recorder = start_recorder(make_run("recovery.nonFinite=rewind"))
        recorder.begin_attempt(group)
        recorder.checkpoint_part(make_part(0))
        train_to(recorder, 1, 6)
        assert recorder.nonfinite(6, "step 7: loss nan") is Command.REWIND
        plan = recorder.rewind(6, "step 7: loss nan")
        assert (plan.attempt, plan.first_step, plan.skip) == (1, 4, {6})
        train_to(recorder, 5, 8)
        recorder.finish()
        said = history(store)
        assert (said.rewinds[0].step, said.rewinds[0].from_step) == (4, 7)
        assert verify(open_storage(str(store)), bytes="none").ok

    def test_halt(self, make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, store: Path) -> None:
        recorder = start_recorder(make_run("recovery.nonFinite=halt"))
        recorder.begin_attempt(group)
        assert recorder.nonfinite(0, "step 1: loss nan") is Command.STOP
        recorder.record_step(make_record(1, loss=float("nan")))
        recorder.flush()
        outcome = recorder.drain().outcome
        assert (outcome.exit_code, outcome.reason) == (4, "NonFinite")
        assert history(store).covers(1, 1), "the record of the step is kept"


def test_a_record_holds_the_memory_of_the_rank_that_used_most(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, store: Path
) -> None:
    recorder = start_recorder(make_run())

    def train(step: int, attempt: int, *memory: int) -> None:
        """Ranks that use so much report, then rank 0, which uses 10, hands over a step."""
        for rank, used in enumerate(memory):
            recorder.report(WorkerReport(rank, 1.0, 0.5, 0.0, used))
        recorder.record_step(replace(make_record(step, attempt), memory_bytes=10))

    recorder.begin_attempt(group)
    train(1, 1)
    train(2, 1, 10, 30, 20)
    train(3, 1, 10, 25, 20)
    recorder.begin_attempt(group)
    train(1, 2, 10, 15)
    recorder.flush()
    storage = open_storage(str(store))
    made = run_table(storage, history(store), all_attempts=True)
    assert made["memory_bytes"].to_pylist() == [10, 30, 30, 15]


def test_records_are_committed_every_few_minutes(
    make_run: Any,
    start_recorder: Any,
    group: GroupInfo,
    make_record: Any,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FENCE_SECONDS", 0.01)
    monkeypatch.setattr(module, "METRICS_SECONDS", 0.0)
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    recorder.record_step(make_record(1))
    deadline = time.monotonic() + 20
    while not history(store).covers(1, 1):
        assert time.monotonic() < deadline, "no segment was committed"


def test_status_and_metrics_are_served_even_where_the_port_is_taken(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    train_to(recorder, 1, 4)
    base = f"http://127.0.0.1:{recorder.port()}"
    with urllib.request.urlopen(f"{base}/status", timeout=10) as answer:
        assert b'"step": 4' in answer.read()
    with urllib.request.urlopen(f"{base}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    assert 'llm360_train_loss{run="amber-tiny"} 1.0' in text
    assert 'llm360_checkpoint_committed_total{run="amber-tiny"} 1.0' in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{base}/secrets", timeout=10)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = recorder._given
        other = Recorder(type(given)(given.run_json, given.stages, given.options, given.host, taken.getsockname()[1]))
        assert other.port() != taken.getsockname()[1]
        other.close()


def test_the_end_waits_for_a_reader_who_follows_the_run(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    recorder = start_recorder(make_run())
    assert recorder.status()["phase"] == "Starting"
    recorder.begin_attempt(group)
    train_to(recorder, 1, 4)

    def ask() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{recorder.port()}/status", timeout=10) as answer:
            return dict(json.load(answer))

    began = time.monotonic()
    recorder.tell_end(20.0)
    assert time.monotonic() - began < 5, "nobody had asked, and it waited"
    assert ask()["phase"] == "Training"
    recorder.group_failed("a worker died")
    assert ask()["phase"] == "Recovering"
    recorder.begin_attempt(group)
    assert ask()["phase"] == "Training"
    train_to(recorder, 5, 8, attempt=2)
    recorder.finish()
    leaving = threading.Thread(target=recorder.tell_end, args=(20.0,))
    leaving.start()
    leaving.join(0.05)
    assert leaving.is_alive(), "it left before the reader came again"
    said = ask()
    assert (said["phase"], said["step"], len(said["checkpoints"])) == ("Succeeded", 8, 2)
    leaving.join(10)
    assert not leaving.is_alive()


def test_the_end_waits_for_the_scraper_as_for_the_operator(
    make_run: Any, start_recorder: Any, group: GroupInfo, train_to: Any
) -> None:
    """The last step's loss is in Prometheus, too."""
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)

    def ask(page: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{recorder.port()}{page}", timeout=10) as answer:
            return str(answer.read().decode())

    ask("/status")
    ask("/metrics")
    train_to(recorder, 1, 8)
    recorder.finish()
    leaving = threading.Thread(target=recorder.tell_end, args=(60.0,))
    leaving.start()
    leaving.join(0.05)
    ask("/status")
    leaving.join(0.05)
    assert leaving.is_alive(), "it left before the scraper came again"
    assert 'llm360_train_step{run="amber-tiny"} 8.0' in ask("/metrics")
    began = time.monotonic()
    while leaving.is_alive():
        assert time.monotonic() - began < 30, "both came again, and it stays"
        ask("/status")
        ask("/metrics")
        leaving.join(0.05)


def test_a_reader_who_stays_away_is_not_waited_for_for_ever(make_run: Any, start_recorder: Any) -> None:
    recorder = start_recorder(make_run())
    urllib.request.urlopen(f"http://127.0.0.1:{recorder.port()}/status", timeout=10).close()
    recorder.tell_end(0.05)


def test_a_segment_whose_answer_was_lost_is_committed_once(
    make_run: Any, start_recorder: Any, group: GroupInfo, make_record: Any, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = start_recorder(make_run())
    recorder.begin_attempt(group)
    storage = recorder._ledger.storage
    create = storage.create

    def lose_the_answer(key: str, data: bytes) -> None:
        create(key, data)
        monkeypatch.setattr(storage, "create", create)
        recorder.record_step(make_record(2))  # training goes on meanwhile
        raise StorageUnavailableError("no answer")

    recorder.record_step(make_record(1))
    monkeypatch.setattr(storage, "create", lose_the_answer)
    recorder.flush()
    segments = history(store).branch_segments(1, 2)
    assert [(segment.first_step, segment.last_step) for segment in segments] == [(1, 1), (2, 2)]
