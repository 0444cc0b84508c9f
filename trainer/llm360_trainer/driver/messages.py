"""The messages between the driver's process and its recorder, which is an actor of its own."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from llm360.release.metrics import StepRecord
from llm360.storage import StorageOptions
from llm360_trainer.train.plan import StagePlan


@dataclass(frozen=True)
class RecorderInput:
    """What the driver gives to the recorder.

    Attributes:
        run_json: The resolved run, canonical JSON.
        stages: All stages, their data committed.
        options: How storage is reached.
        host: Address that `/status` and `/metrics` listen on.
        port: Their port; 0 takes a free one.
        push: URL of a Pushgateway that the metrics are pushed to as well; None for none.
    """

    run_json: bytes
    stages: tuple[StagePlan, ...]
    options: StorageOptions
    host: str
    port: int
    push: str | None = None


@dataclass(frozen=True)
class Outcome:
    """How the run ended for this driver."""

    exit_code: int
    reason: str
    message: str


@dataclass(frozen=True)
class Event:
    """Something that a person should see."""

    text: str
    checkpoint: str | None = None
    attempt: int | None = None


@dataclass
class Update:
    """What happened since the driver last asked."""

    records: list[StepRecord] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    outcome: Outcome | None = None


class Outbox:
    """What a recorder has for its driver: steps, sentences, and the outcome, of which the first counts.

    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._update = Update()
        self._outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How the run ended, once it has."""
        with self._lock:
            return self._outcome

    def record(self, record: StepRecord) -> None:
        """A step is finished."""
        with self._lock:
            self._update.records.append(record)

    def say(self, text: str, *, checkpoint: str | None = None, attempt: int | None = None) -> None:
        """Something happened that a person should see."""
        with self._lock:
            self._update.events.append(Event(text, checkpoint, attempt))

    def end(self, outcome: Outcome) -> None:
        """The run has ended so, unless it had ended before."""
        with self._lock:
            if self._outcome is None:
                self._outcome = outcome

    def drain(self) -> Update:
        """What happened since the last call."""
        with self._lock:
            update, self._update = self._update, Update()
            update.outcome = self._outcome
        return update


def describe_error(error: BaseException) -> str:
    """One sentence of an error that came through Ray: its kind, and how the last line of what it says begins."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip().split('. ')[0]}" if lines else type(error).__name__
