from __future__ import annotations

import io
import json
import math
from datetime import UTC, datetime

import pytest
from rich.console import Console

from llm360.release.metrics import StepRecord
from llm360_trainer.driver.progress import BarLines, Progress, RunState

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS", "LINES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def record(step: int, **changes) -> StepRecord:
    values = {
        "step": step,
        "attempt": 2,
        "stage": 0,
        "time": NOW,
        "tokens": step * 8192,
        "loss": 3.41234,
        "learning_rate": 1.2e-4,
        "grad_norm": 0.9123,
        "step_seconds": 0.25,
        "tokens_per_second": 12_400.0,
        "mfu": None,
    }
    return StepRecord(**{**values, **changes})


def log_progress(stream, clock, total_steps=800, **options) -> Progress:
    return Progress("amber-tiny", total_steps, stream, clock=clock, now=lambda: NOW, **options)


def drawn(state: RunState, width: int, *, color: bool = False) -> str:
    stream = io.StringIO()
    Console(
        file=stream, width=width, force_terminal=color, color_system="standard" if color else None, legacy_windows=False
    ).print(BarLines(state))
    return stream.getvalue()


def state_at(step: int, total: int = 800, **changes) -> RunState:
    state = RunState("amber-tiny", total, checkpoint="ckpt_002")
    state.add(record(step, **changes))
    return state


def test_log_line_names_the_run_and_its_numbers(log, clock):
    progress = log_progress(log, clock)
    progress.event("checkpoint ckpt_002 committed", checkpoint="ckpt_002")
    progress.step(record(312))

    assert log.getvalue().splitlines() == [
        "2026-01-02T03:04:05Z amber-tiny checkpoint ckpt_002 committed",
        "2026-01-02T03:04:05Z amber-tiny step=312/800 tokens=2555904 loss=3.4123 learning_rate=1.200e-04"
        " grad_norm=0.912 tokens_per_second=12400 left=2m02s checkpoint=ckpt_002 attempt=2",
    ]


def test_log_keeps_to_its_interval_and_writes_the_last_step(log, clock):
    progress = log_progress(log, clock, total_steps=40, interval_seconds=10.0)
    for step in range(1, 41):
        clock.seconds = step * 1.0
        progress.step(record(step))

    steps = [line.split("step=")[1].split("/")[0] for line in log.getvalue().splitlines()]
    assert steps == ["1", "11", "21", "31", "40"]


def test_slow_steps_get_a_line_each(log, clock):
    progress = log_progress(log, clock, interval_seconds=10.0)
    for step in (1, 2, 3):
        clock.seconds += 11.0
        progress.step(record(step))

    assert log.getvalue().count("step=") == 3


def test_step_held_back_is_written_at_the_end(log, clock):
    with log_progress(log, clock) as progress:
        progress.step(record(1))
        progress.step(record(2))

    assert "step=2/800" in log.getvalue().splitlines()[-1]
    progress.close()
    assert log.getvalue().count("\n") == 2


def test_skipped_step_says_so(log, clock):
    log_progress(log, clock).step(record(5, loss=math.nan, skipped=True))

    assert "loss=nan" in log.getvalue()
    assert "skipped=true" in log.getvalue()


def test_json_log_is_json_even_for_values_that_json_lacks(log, clock):
    progress = log_progress(log, clock, log_format="json")
    progress.event("attempt 2 resumes from step 8", attempt=2, resumed_step=8)
    progress.step(record(9, loss=math.nan))
    progress.event("the store answers again")

    event, step, later = (json.loads(line, parse_constant=pytest.fail) for line in log.getvalue().splitlines())
    assert event == {
        "time": "2026-01-02T03:04:05Z",
        "run": "amber-tiny",
        "event": "message",
        "message": "attempt 2 resumes from step 8",
        "attempt": 2,
        "resumed_step": 8,
    }
    assert (step["event"], step["step"], step["loss"], step["tokens"]) == ("step", 9, "nan", 9 * 8192)
    assert (later["run"], later["step"], later["attempt"]) == ("amber-tiny", 9, step["attempt"])


def test_time_left_is_not_moved_by_one_slow_step():
    state = RunState("run", 110)
    for step in range(1, 11):
        state.add(record(step, step_seconds=60.0 if step == 5 else 0.5))

    assert state.seconds_left == pytest.approx(50.0)


def test_time_left_is_unknown_before_the_first_step():
    assert RunState("run", 10).seconds_left is None
    assert "waiting for the first step" in drawn(RunState("run", 10), 80)


def test_bar_shows_everything_at_80_columns():
    bar, numbers = drawn(state_at(312), 80).splitlines()

    assert bar.startswith("amber-tiny ━")
    assert bar.rstrip().endswith("312/800   39%  2m02s left")
    assert numbers.rstrip() == "loss 3.412 · 12.4k tokens/s · 2.56M tokens · checkpoint ckpt_002 · attempt 2"


@pytest.mark.parametrize("width", [10, 20, 30, 40, 60, 80, 120, 200])
def test_bar_never_wraps(width):
    lines = drawn(state_at(312_000, total=1_430_000, tokens=1_200_000_000_000), width).splitlines()

    assert len(lines) == 2
    assert max(map(len, lines)) <= width


def test_narrow_terminal_keeps_the_loss_and_drops_the_rest():
    bar, numbers = drawn(state_at(312), 30).splitlines()

    assert "312/800" in bar
    assert numbers.rstrip() == "loss 3.412 · 12.4k tokens/s"


def test_finished_run_says_done_and_100_percent_is_said_of_no_other():
    assert "100%  done" in drawn(state_at(800), 80)
    assert " 99%" in drawn(state_at(7999, total=8000), 80)


def test_no_color_is_respected(monkeypatch):
    assert "\x1b[36m" in drawn(state_at(312), 80, color=True)
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[36m" not in drawn(state_at(312), 80, color=True)


def test_terminal_gets_a_bar_with_events_above_it():
    stream = Terminal()
    with Progress("amber-tiny", 800, stream) as progress:
        progress.step(record(312))
        progress.event("checkpoint ckpt_002 committed", checkpoint="ckpt_002")

    shown = stream.getvalue()
    assert "checkpoint ckpt_002 committed" in shown
    assert "· checkpoint ckpt_002 · attempt 2\n" in shown
    assert shown.endswith("\x1b[?25h"), "the cursor is shown again"


def test_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    Progress("amber-tiny", 800, stream).step(record(312))

    assert "step=312/800" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_run_that_prepares_its_data_has_no_steps_yet():
    assert "preparing" in drawn(RunState("run", 0), 80)


def test_run_before_its_first_step_claims_no_position():
    """It may resume from a step that nobody has told the display."""
    assert "800 steps" in drawn(RunState("run", 800), 80)
    assert "0/800" not in drawn(RunState("run", 800), 80)
