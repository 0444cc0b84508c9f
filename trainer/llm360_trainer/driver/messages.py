"""The messages between the driver's process and its recorder, which is an actor of its own."""

from __future__ import annotations

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


def describe_error(error: BaseException) -> str:
    """One sentence of an error that came through Ray: its kind, and how the last line of what it says begins."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip().split('. ')[0]}" if lines else type(error).__name__
