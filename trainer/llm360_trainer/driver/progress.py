"""How a run shows itself while it trains: two lines that stay in place on a terminal, plain lines in a log.

    terminal   amber-tiny ━━━━━━━━━━━━━━━━━━━━━━╸━━━━━━━━━━━━━━━━━━━  312/800  39%  1m23s left
               loss 3.412 · 12.4k tokens/s · 2.56M tokens · checkpoint ckpt_002 · attempt 2
    log        2026-01-02T03:04:05Z amber-tiny step=312/800 tokens=2555904 loss=3.412 … left=1m23s
    json       {"event":"step","loss":3.412,"run":"amber-tiny","step":312,"time":"2026-01-02T03:04:05Z",…}

It is a view: nothing reads it back, and losing it loses nothing.
"""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from statistics import median
from types import TracebackType
from typing import Any, Literal, TextIO

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from llm360.release.metrics import StepRecord
from llm360.report.text import duration, short_count

LogFormat = Literal["auto", "text", "json"]

# A log gets a step's line at most this often; a step that takes longer gets its line at once.
LOG_INTERVAL_SECONDS = 10.0

# Time left goes by the median of so many steps: one slow step (a compilation, a checkpoint) does not move it.
RATE_WINDOW_STEPS = 100

# Narrower than this there is no room for a bar beside the numbers.
MIN_BAR_COLUMNS = 8


@dataclass
class RunState:
    """What the display knows of the run."""

    name: str
    total_steps: int
    record: StepRecord | None = None
    checkpoint: str | None = None
    attempt: int | None = None
    step_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=RATE_WINDOW_STEPS))

    def add(self, record: StepRecord) -> None:
        """Take in a finished step."""
        self.record, self.attempt = record, record.attempt
        self.step_seconds.append(record.step_seconds)

    @property
    def step(self) -> int:
        """Finished steps as far as known."""
        return self.record.step if self.record else 0

    @property
    def is_finished(self) -> bool:
        """Whether the last step is done."""
        return 0 < self.total_steps <= self.step

    @property
    def seconds_left(self) -> float | None:
        """Remaining steps at the present rate; None before the first step."""
        if not self.step_seconds:
            return None
        return max(0, self.total_steps - self.step) * median(self.step_seconds)


class Display(ABC):
    """One way to show the state and the events."""

    @abstractmethod
    def step(self, state: RunState) -> None:
        """A step finished."""

    @abstractmethod
    def event(self, state: RunState, text: str, facts: Mapping[str, Any]) -> None:
        """Something happened that a person should know of."""

    def close(self, state: RunState) -> None:  # noqa: B027 — only a terminal has something to put back
        """Nothing more will be shown."""


class Progress:
    """Shows a run's steps and events on a stream; safe to call from several threads.

    Args:
        name: The run's name, on every line of a log.
        total_steps: Steps of the whole run, those of earlier attempts included; 0 until they are known.
        stream: Where to write; standard error by default, so that standard output stays for facts.
        log_format: `auto` is a bar on a terminal and text otherwise; `text` and `json` are lines everywhere.
        interval_seconds: The least time between the lines of two steps in a log.
        clock: Monotonic seconds.
        now: The time that a log's lines carry.
    """

    def __init__(
        self,
        name: str,
        total_steps: int,
        stream: TextIO | None = None,
        *,
        log_format: LogFormat = "auto",
        interval_seconds: float = LOG_INTERVAL_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._state = RunState(name, total_steps)
        self._lock = threading.RLock()
        stream = stream or sys.stderr
        console = Console(file=stream, highlight=False)
        if log_format == "auto" and console.is_terminal and not console.is_dumb_terminal:
            self._display: Display = BarDisplay(self._state, console)
        else:
            to_line = json_line if log_format == "json" else text_line
            self._display = LogDisplay(stream, to_line, interval_seconds, clock, now)

    def set_total(self, total_steps: int) -> None:
        """Say how many steps the run has, once its data is known."""
        with self._lock:
            self._state.total_steps = total_steps

    def step(self, record: StepRecord) -> None:
        """Show a finished step."""
        with self._lock:
            self._state.add(record)
            self._display.step(self._state)

    def event(self, text: str, *, checkpoint: str | None = None, attempt: int | None = None, **facts: Any) -> None:
        """Say what happened: an attempt, a committed checkpoint, waiting for the store.

        Args:
            text: One sentence for a person.
            checkpoint: The label of a checkpoint that is now committed; shown from here on as the last one.
            attempt: The attempt that is now under way.
            facts: Further JSON values for `json` logs.
        """
        with self._lock:
            self._state.checkpoint = checkpoint or self._state.checkpoint
            self._state.attempt = attempt or self._state.attempt
            known = {"checkpoint": checkpoint, "attempt": attempt, **facts}
            self._display.event(self._state, text, {k: v for k, v in known.items() if v is not None})

    def close(self) -> None:
        """Leave the stream as it was found; may be called more than once."""
        with self._lock:
            self._display.close(self._state)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


class BarDisplay(Display):
    """A bar with the numbers below it, at the bottom of a terminal; events scroll above."""

    def __init__(self, state: RunState, console: Console) -> None:
        self._console = console
        # Ray and others print while the bar stands: rich moves what they print above it.
        self._live = Live(BarLines(state), console=console, refresh_per_second=4)
        self._live.start()

    def step(self, state: RunState) -> None:
        """Nothing to do: the bar is drawn from the state four times a second."""

    def event(self, state: RunState, text: str, facts: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Print the sentence above the bar."""
        self._console.print(Text(text))

    def close(self, state: RunState) -> None:  # noqa: ARG002
        """Draw the last state, leave it standing and show the cursor again."""
        self._live.stop()


@dataclass
class BarLines:
    """The two lines on a terminal, cut to its width from the least important end."""

    state: RunState

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw for the width that the terminal has now."""
        state, width = self.state, options.max_width
        separator = " | " if options.ascii_only else " · "
        counts = fit(_position(state), "  ", width)
        name = state.name if len(state.name) + len(counts) + MIN_BAR_COLUMNS + 2 <= width else ""
        bar_columns = width - len(counts) - len(name) - 1 - bool(name)
        row = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
        cells: list[Text | ProgressBar] = [Text(name, style="bold", no_wrap=True)] if name else []
        if bar_columns >= MIN_BAR_COLUMNS:
            total, columns = max(1, state.total_steps), min(bar_columns, 60)
            cells.append(ProgressBar(total, state.step, columns, complete_style="cyan", finished_style="cyan"))
        row.add_row(*cells, Text(counts, no_wrap=True))
        yield row
        yield Text(fit(_numbers(state), separator, width), no_wrap=True, overflow="ellipsis")


def _position(state: RunState) -> list[str]:
    if not state.total_steps:
        return ["preparing"]
    if not state.record:
        # Not "0": a run that resumes has done many steps.
        return [f"{state.total_steps:,} steps"]
    left = "done" if state.is_finished else f"{duration(state.seconds_left)} left"
    # Rounded down: 100% is said of a finished run only.
    return [f"{state.step:,}/{state.total_steps:,}", f"{100 * state.step // state.total_steps:3d}%", left]


def _numbers(state: RunState) -> list[str]:
    record = state.record
    parts = ["waiting for the first step"]
    if record is not None:
        parts = [
            f"loss {_loss(record)}",
            f"{short_count(record.tokens_per_second)} tokens/s",
            f"{short_count(record.tokens)} tokens",
        ]
    if state.checkpoint is not None:
        parts.append(f"checkpoint {state.checkpoint}")
    if state.attempt is not None:
        parts.append(f"attempt {state.attempt}")
    return parts


def _loss(record: StepRecord) -> str:
    return f"{record.loss:.3f}" + (" (skipped)" if record.skipped else "")


def fit(parts: list[str], separator: str, width: int) -> str:
    """As many of the parts, from the first on, as the width has room for; at least the first."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(separator) + len(part) > width:
            break
        line += separator + part
    return line


class LogDisplay(Display):
    """One line per event, and one per step as far as the interval allows."""

    def __init__(
        self,
        stream: TextIO,
        to_line: Callable[[Mapping[str, Any]], str],
        interval_seconds: float,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._stream = stream
        self._to_line = to_line
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._now = now
        self._next_line = -math.inf
        self._unwritten = False

    def step(self, state: RunState) -> None:
        """Write the step's line if the last one is long enough ago, or if it is the run's last."""
        self._unwritten = self._clock() < self._next_line and not state.is_finished
        if not self._unwritten:
            self._write_step(state)

    def event(self, state: RunState, text: str, facts: Mapping[str, Any]) -> None:
        """Write the event at once."""
        where = {"step": state.record and state.record.step, "attempt": state.attempt}
        known = {name: value for name, value in where.items() if value is not None}
        self._write(state, {"event": "message", "message": text, **known, **facts})

    def close(self, state: RunState) -> None:
        """Write the last step's line if the interval held it back."""
        if self._unwritten:
            self._write_step(state)

    def _write_step(self, state: RunState) -> None:
        self._unwritten = False
        self._next_line = self._clock() + self._interval_seconds
        self._write(state, {"event": "step", **step_facts(state)})

    def _write(self, state: RunState, facts: Mapping[str, Any]) -> None:
        stamp = self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        self._stream.write(self._to_line({"time": stamp, "run": state.name, **facts}) + "\n")
        self._stream.flush()


def step_facts(state: RunState) -> dict[str, Any]:
    """The last step's numbers and where the run stands, as a log names them."""
    record = state.record
    assert record is not None
    return {
        "step": record.step,
        "total_steps": state.total_steps,
        "tokens": record.tokens,
        "loss": record.loss,
        "learning_rate": record.learning_rate,
        "grad_norm": record.grad_norm,
        "tokens_per_second": record.tokens_per_second,
        "mfu": record.mfu,
        "step_seconds": record.step_seconds,
        "data_wait_seconds": record.data_wait_seconds,
        "memory_bytes": record.memory_bytes,
        "skipped": record.skipped,
        "seconds_left": state.seconds_left,
        "checkpoint": state.checkpoint,
        "attempt": record.attempt,
    }


def json_line(facts: Mapping[str, Any]) -> str:
    """One JSON object; numbers that JSON cannot hold (NaN, infinities) become strings."""
    safe = {k: str(v) if isinstance(v, float) and not math.isfinite(v) else v for k, v in facts.items()}
    return json.dumps(safe, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def text_line(facts: Mapping[str, Any]) -> str:
    """Time, run, then the event's sentence or the step's numbers as `name=value`."""
    head = f"{facts['time']} {facts['run']}"
    if facts["event"] == "message":
        return f"{head} {facts['message']}"
    fields = {
        "step": f"{facts['step']}/{facts['total_steps']}",
        "tokens": str(facts["tokens"]),
        "loss": f"{facts['loss']:.4f}",
        "learning_rate": f"{facts['learning_rate']:.3e}",
        "grad_norm": f"{facts['grad_norm']:.3f}",
        "tokens_per_second": f"{facts['tokens_per_second']:.0f}",
        "mfu": None if facts["mfu"] is None else f"{facts['mfu']:.3f}",
        "skipped": "true" if facts["skipped"] else None,
        "left": duration(facts["seconds_left"]),
        "checkpoint": facts["checkpoint"],
        "attempt": facts["attempt"],
    }
    return " ".join([head, *(f"{name}={value}" for name, value in fields.items() if value is not None)])
