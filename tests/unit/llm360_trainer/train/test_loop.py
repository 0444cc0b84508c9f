"""The loop of one attempt, with a step function that can be told to come out non-finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from llm360.release.create import open_release
from llm360.release.metrics import run_table
from llm360.release.verify import verify
from llm360.storage import StorageOptions, open_storage
from llm360_trainer.model import DecoderConfig
from llm360_trainer.step import StepResult
from llm360_trainer.stream import StepRows
from llm360_trainer.train import loop as module
from llm360_trainer.train.loop import LeaveLoop, Loop
from llm360_trainer.train.plan import AttemptPlan, Command, Resume, StagePlan


class FakeWriter:
    """Writes nothing; its parts are there at once."""

    def __init__(self, make_part: Callable[[int], Any]) -> None:
        self._make_part = make_part
        self._parts: list[Any] = []
        self.model_files: dict[str, bytes] = {"tokenizer.json": b"0"}
        self.tokenizers: dict[int, bytes] = {}

    def start(self, step: int, *_: Any) -> float:
        self.tokenizers[step] = self.model_files["tokenizer.json"]
        self._parts.append(self._make_part(step))
        return 0.25

    def poll(self) -> list[Any]:
        parts, self._parts = self._parts, []
        return parts

    wait = poll


class FakeStep:
    """Remembers which steps updated the weights; those in `poisoned` come out with a NaN."""

    def __init__(self, poisoned: set[int]) -> None:
        self.poisoned = poisoned
        self.updates: list[int] = []

    def __call__(
        self, ids: Any, mask: Any, source: Any, *, finished_steps: int, learning_rate: float, flags: Any
    ) -> Any:
        finite = finished_steps not in self.poisoned
        if finite:
            self.updates.append(finished_steps)
        loss = 6.0 if finite else math.nan
        return StepResult(finite, 2048 * loss, 2048, (2048 * loss, 0.0), (2048, 0), loss, tuple(flags))


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def fake_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without content, of the steps that the loop asks for."""

    @contextmanager
    def stream(*_: Any, first_step: int, last_step: int, skip: set[int], **__: Any) -> Iterator[Iterator[StepRows]]:
        ids, source = np.zeros((8, 257), np.uint16), np.zeros(8, np.uint16)
        yield (StepRows(step, ids, None, source, 0.5) for step in range(first_step, last_step) if step not in skip)

    monkeypatch.setattr(module, "stream_steps", stream)


@pytest.fixture
def make_loop(one_rank: None, fake_stream: None, stage: StagePlan, make_part: Any) -> Callable[..., Loop]:
    def make(
        run: Any, recorder: Any, step: FakeStep, stages: tuple[StagePlan, ...] = (stage,), optimizer: Any = None
    ) -> Loop:
        return Loop(
            run=run,
            stages=stages,
            rank=0,
            world=1,
            config=DecoderConfig(8, 4, 4, 1, 1, 1, 4),
            model=None,  # type: ignore[arg-type]
            optimizer=optimizer,
            step_of=dict.fromkeys(range(len(stages)), step),  # type: ignore[arg-type]
            model_files={index: {"tokenizer.json": str(index).encode()} for index in range(len(stages))},
            writer=FakeWriter(make_part),  # type: ignore[arg-type]
            recorder=recorder,
            options=StorageOptions(),
            device=torch.device("cpu"),
        )

    return make


def table(store: Path) -> dict[str, list[Any]]:
    storage = open_storage(str(store))
    return run_table(storage, open_release(storage).history()).to_pydict()


def test_all_steps_and_checkpoints_in_their_order(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, store: Path
) -> None:
    run = make_run("checkpoints.resumeEvery=3")
    recorder, step = start_recorder(run), FakeStep(set())
    make_loop(run, recorder, step).run_attempt(recorder.begin_attempt(group))
    recorder.finish()
    assert step.updates == list(range(8))
    records = table(store)
    assert records["step"] == list(range(1, 9))
    assert records["learning_rate"][:3] == [0.0, 0.001, 0.002]
    assert records["data_wait_seconds"] == [0.5] * 8
    assert records["checkpoint_stall_seconds"] == [0.25, 0, 0, 0.25, 0.25, 0, 0.25, 0]
    history = open_release(open_storage(str(store))).history()
    assert [(c.step, c.body.published) for c in history.branch] == [
        (0, True),
        (3, False),
        (4, True),
        (6, False),
        (8, True),
    ]


@pytest.mark.parametrize(("last", "steps"), [(5, range(5)), (0, range(0))])
def test_a_plan_may_end_before_the_run_and_ends_with_a_checkpoint(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, store: Path, last: int, steps: range
) -> None:
    run = make_run()
    recorder, step = start_recorder(run), FakeStep(set())
    plan = replace(recorder.begin_attempt(group), last_step=last)
    make_loop(run, recorder, step).run_attempt(plan)
    recorder.flush()
    assert step.updates == list(steps)
    assert open_release(open_storage(str(store))).history().branch[-1].step == last


def test_skip_leaves_the_weights_and_goes_on(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, store: Path
) -> None:
    run = make_run("recovery.nonFinite=skip")
    recorder, step = start_recorder(run), FakeStep({5})
    make_loop(run, recorder, step).run_attempt(recorder.begin_attempt(group))
    recorder.finish()
    assert step.updates == [0, 1, 2, 3, 4, 6, 7]
    assert table(store)["skipped"] == [False] * 5 + [True] + [False] * 2
    assert verify(open_storage(str(store)), bytes="none").ok


def test_rewind_goes_back_and_leaves_the_step_out(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, store: Path
) -> None:
    run = make_run("recovery.nonFinite=rewind")
    recorder, step = start_recorder(run), FakeStep({6})
    loop = make_loop(run, recorder, step)
    with pytest.raises(LeaveLoop) as left:
        loop.run_attempt(recorder.begin_attempt(group))
    assert (left.value.command, left.value.step) == (Command.REWIND, 6)
    plan: AttemptPlan = recorder.rewind(6, left.value.problem)
    assert plan.first_step == 4
    step.poisoned = set()
    loop.run_attempt(plan)
    recorder.finish()
    assert step.updates == [0, 1, 2, 3, 4, 5, 4, 5, 7], "step 6 is neither read nor trained on"
    records = table(store)
    assert records["step"] == list(range(1, 9))
    assert math.isnan(records["loss"][6])
    assert verify(open_storage(str(store)), bytes="none").ok


def test_halt_stops_all_ranks(make_run: Any, start_recorder: Any, group: Any, make_loop: Any) -> None:
    run = make_run("recovery.nonFinite=halt")
    recorder, step = start_recorder(run), FakeStep({2})
    with pytest.raises(LeaveLoop) as left:
        make_loop(run, recorder, step).run_attempt(recorder.begin_attempt(group))
    assert left.value.command is Command.STOP
    assert step.updates == [0, 1]
    assert recorder.drain().outcome.exit_code == 4


def test_a_wish_to_stop_is_obeyed_at_the_next_step(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any
) -> None:
    run = make_run()
    recorder, step = start_recorder(run), FakeStep(set())
    plan = recorder.begin_attempt(group)
    recorder.interrupt(130, "SIGINT")
    with pytest.raises(LeaveLoop) as left:
        make_loop(run, recorder, step).run_attempt(plan)
    assert left.value.command is Command.STOP
    assert step.updates == [0, 1], "the wish travels with the step after the one whose record brought it"


@pytest.mark.parametrize("at", [1, 4, 6])
def test_who_is_asked_to_stop_makes_one_more_step_and_a_checkpoint(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, store: Path, at: int
) -> None:
    run = make_run()
    recorder, step = start_recorder(run), FakeStep(set())
    loop = make_loop(run, recorder, step)
    plan = recorder.begin_attempt(group)
    ask_to_stop_with(recorder, at)
    with pytest.raises(LeaveLoop) as left:
        loop.run_attempt(plan)
    assert (left.value.command, left.value.step) == (Command.CHECKPOINT, at)
    recorder.stopped(at + 1)
    assert step.updates == list(range(at + 1))
    assert open_release(open_storage(str(store))).history().resume_point().step == at + 1
    assert table(store)["step"] == list(range(1, at + 2))
    plan = start_recorder(run).begin_attempt(group)
    assert plan.first_step == at + 1


def test_who_is_asked_to_stop_in_the_last_step_completes_the_run(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, store: Path
) -> None:
    run = make_run()
    recorder = start_recorder(run)
    ask_to_stop_with(recorder, 7)
    make_loop(run, recorder, FakeStep(set())).run_attempt(recorder.begin_attempt(group))
    recorder.finish()
    assert recorder.drain().outcome.exit_code == 0


def ask_to_stop_with(recorder: Any, step: int) -> None:
    """Have the recorder asked to stop when it is given the record of a step."""
    take_in = recorder.record_step

    def record_step(record: Any) -> Command:
        answer: Command = take_in(record)
        if record.step == step:
            recorder.flush()  # the checkpoint of this very step, if there is one
            recorder.interrupt(130, "SIGINT")
            answer = Command.STOP if recorder.drain().outcome else Command.CHECKPOINT
        return answer

    recorder.record_step = record_step


class Moments:
    """As much of AdamW as a stage's start touches; remembers at which update it was set back."""

    def __init__(self, step: FakeStep) -> None:
        self._step = step
        self.resets: list[int] = []
        self.state = {"w": {"exp_avg": self, "exp_avg_sq": torch.ones(1)}}

    def zero_(self) -> None:
        self.resets.append(len(self._step.updates))


def three_stages(stage: StagePlan) -> tuple[StagePlan, ...]:
    """8 steps each; the second starts from empty moments, the third goes on with them."""

    def later(index: int, moments_from: int) -> StagePlan:
        first = index * stage.num_steps
        tokens = stage.tokens_after(first)
        return replace(stage, index=index, first_step=first, first_tokens=tokens, moments_from=moments_from)

    return stage, later(1, 8), later(2, 8)


STAGES = "data.stages=[{name: one}, {name: two, optimizerState: reset}, {name: three}]"


def test_stages_follow_each_other_with_their_moments_tokenizers_and_labels(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, stage: StagePlan, store: Path
) -> None:
    stages = three_stages(stage)
    run = make_run(STAGES)
    recorder, step = start_recorder(run, stages), FakeStep(set())
    moments = Moments(step)
    loop = make_loop(run, recorder, step, stages, moments)
    loop.run_attempt(recorder.begin_attempt(group))
    recorder.finish()
    assert step.updates == [*range(8), *range(16)], "the bias correction counts anew from the second stage on"
    assert moments.resets == [8]
    assert loop.writer.tokenizers == {0: b"0", 4: b"0", 8: b"0", 12: b"1", 16: b"1", 20: b"2", 24: b"2"}  # type: ignore[attr-defined]
    history = open_release(open_storage(str(store))).history()
    assert [(body.step, body.labels) for body in (known.body for known in history.branch)] == [
        (0, ("init",)),
        (4, ("one-0001",)),
        (8, ("one-0002",)),
        (12, ("two-0001",)),
        (16, ("two-0002",)),
        (20, ("three-0001",)),
        (24, ("three-0002",)),
    ]
    assert [pinned.name for pinned in history.stages] == ["one", "two", "three"]
    records = table(store)
    assert records["stage"] == [0] * 8 + [1] * 8 + [2] * 8
    assert records["learning_rate"][8:11] == [0.0, 0.001, 0.002], "each stage's schedule counts from its first step"
    assert verify(open_storage(str(store)), bytes="none").ok


@pytest.mark.parametrize(("first_step", "resets"), [(4, [4]), (8, [0]), (12, []), (16, []), (20, [])])
def test_only_the_start_of_the_stage_that_resets_sets_moments_back(
    make_run: Any, start_recorder: Any, group: Any, make_loop: Any, stage: StagePlan, first_step: int, resets: list[int]
) -> None:
    """Also where training resumes from the checkpoint at the end of the stage before, which holds that stage's."""
    stages, run = three_stages(stage), make_run(STAGES)
    recorder, step = start_recorder(run, stages), FakeStep(set())
    recorder.begin_attempt(group)
    moments = Moments(step)
    loop = make_loop(run, recorder, step, stages, moments)
    loop.writer.start = lambda *_: 0.0  # type: ignore[method-assign]
    resume = Resume("entry", "prefix", SimpleNamespace(step=first_step))  # type: ignore[arg-type]
    loop.run_attempt(AttemptPlan(1, resume, frozenset()))
    assert moments.resets == resets
