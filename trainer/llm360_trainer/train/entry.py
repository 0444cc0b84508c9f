"""Where Ray Train enters a rank's process, and what the driver gives it; names the rank, and imports nothing of it.

A rank that fails says why to the recorder and raises, so that Ray Train starts the whole group again. A rank
that must not be started again (bad input, fenced, stopped) returns as if it were done; the driver, which
has been told, ends with the right exit code.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray

from llm360.errors import LLM360Error
from llm360.storage import StorageOptions
from llm360_trainer.train.plan import Recorder, StagePlan, WorkerReport


@dataclass(frozen=True)
class WorkerInput:
    """What the driver gives to every rank.

    Attributes:
        run_json: The resolved run, canonical JSON.
        store: Address of the release, from which checkpoints are loaded.
        stages: All stages, their data committed.
        options: How storage is reached.
        recorder: Handle of the recorder's actor.
        num_threads: Threads of a rank on a CPU; None leaves torch's choice.
        keeps_checkpoints: Whether checkpoints are written to the release; otherwise only their digests are made.
    """

    run_json: bytes
    store: str
    stages: tuple[StagePlan, ...]
    options: StorageOptions
    recorder: Any
    num_threads: int | None
    keeps_checkpoints: bool = True


class RemoteRecorder:
    """The recorder as a rank sees it: each call waits for the actor's answer."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._actor, name)
        return lambda *args: ray.get(method.remote(*args))

    def report(self, report: WorkerReport) -> None:
        """Hand a report over without waiting: watching must not slow the steps."""
        self._actor.report.remote(report)


def train_worker(config: dict[str, WorkerInput]) -> None:
    """Entry point of a rank; `config["input"]` is the driver's."""
    given = config["input"]
    recorder: Recorder = RemoteRecorder(given.recorder)
    try:
        # In the rank's own process alone: driver and controller, which know this module, start without FSDP.
        from llm360_trainer.train.worker import Worker

        Worker(given, recorder).run()
    except LLM360Error as error:
        recorder.fail(error.message, error.reason, error.exit_code)
        if error.exit_code not in (2, 3):
            raise
    except Exception as error:
        recorder.fail(f"{type(error).__name__}: {error}", "WorkerFailed", 1)
        traceback.print_exc()
        raise
