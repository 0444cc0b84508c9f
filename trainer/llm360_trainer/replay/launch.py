"""Trains a segment anew: the run's own data, driver, ranks and step, with a recorder that only compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import ray

from llm360.errors import InputError, LLM360Error
from llm360.report.text import counted
from llm360.storage import Storage
from llm360_trainer.driver.launch import Launch, RayRuntime, leave_at_once, start_beside, worker_input
from llm360_trainer.driver.messages import Outcome
from llm360_trainer.driver.pinned import check_pinned
from llm360_trainer.driver.progress import LogFormat, Progress
from llm360_trainer.driver.resume import resume_from, skipped_steps
from llm360_trainer.driver.stages import plan_stages
from llm360_trainer.prepare.signals import Interruption
from llm360_trainer.replay.comparison import Comparison, compare
from llm360_trainer.replay.recorder import ReplayInput, ReplayRecorder
from llm360_trainer.replay.segment import Segment, moved, replayed_run
from llm360_trainer.train.plan import AttemptPlan, StagePlan


@dataclass(frozen=True)
class ReplayOptions:
    """How a segment is replayed on this machine or cluster.

    Attributes:
        address: Address of a Ray cluster (`auto`: the one this machine belongs to); None starts Ray here.
        log_format: How progress is shown.
        log_interval: Least seconds between the lines of two steps in a log.
    """

    address: str | None
    log_format: LogFormat
    log_interval: float


class ReplayStoppedError(LLM360Error):
    """A replay that did not come to its end, with what ended it.

    Args:
        outcome: How it ended.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.message, reason=outcome.reason)
        self.exit_code = outcome.exit_code


def replay(
    storage: Storage,
    segment: Segment,
    overrides: Sequence[str],
    options: ReplayOptions,
    say_end: Callable[[Outcome], object] | None = None,
) -> Comparison:
    """Train a segment anew and compare. Nothing is written to the release.

    Args:
        storage: Rooted at the release.
        segment: Of it.
        overrides: Values of `--set`, see `replayed_run`.
        options: How.
        say_end: Called instead of a return where a second signal ends the process at once.

    Raises:
        InputError: the data is missing or another, the settings are refused, or this machine lacks the GPUs.
        IntegrityError: bytes to start from are not those that the ledger names.
        ReplayStoppedError: a worker failed, or a signal came.
    """
    run = replayed_run(storage, segment.history, segment.claim, overrides)
    with (
        Progress(
            "replay", segment.last_step, log_format=options.log_format, interval_seconds=options.log_interval
        ) as progress,
        Interruption(leave_at_once(progress, say_end, "nothing was written, run it again")) as interruption,
        RayRuntime(run, options.address) as runtime,
    ):
        stages = plan_stages(
            moved(run, storage.uri), storage.options, progress.event, before_preparing=_refuse_to_prepare
        )
        check_pinned(run, segment.history, stages)
        runtime.start()
        given = ReplayInput(
            attempt_plan(storage, segment, stages), segment.losses, run.operations(), run.spec.cluster.image
        )
        progress.event(describe(segment, run.spec.cluster.world_size))
        recorder = start_beside(ReplayRecorder, given)
        ranks = worker_input(run, stages, storage.options, recorder, store=storage.uri, keeps_checkpoints=False)
        is_on_cluster = options.address is not None
        outcome = Launch(run, ranks, progress, interruption, is_on_cluster=is_on_cluster).wait()
        if outcome.exit_code:
            raise ReplayStoppedError(outcome)
        return compare(segment, ray.get(recorder.result.remote()))


def describe(segment: Segment, world_size: int) -> str:
    """One sentence of what is trained."""
    steps = counted(segment.last_step - segment.first_step, "step")
    workers = counted(world_size, "worker")
    by = f"as attempt {segment.claim.attempt} made them, on {workers}"
    return f"{steps} from {segment.start_name} to {segment.end_name}, {by}"


def attempt_plan(storage: Storage, segment: Segment, stages: Sequence[StagePlan]) -> AttemptPlan:
    """What the ranks are to do: as the attempt that made the segment's end, up to there.

    Raises:
        IntegrityError: the manifest to start from is not what the ledger names.
        StorageError: it cannot be read.
    """
    return AttemptPlan(
        attempt=segment.claim.attempt,
        resume=resume_from(storage, segment.start) if segment.start else None,
        skip=skipped_steps(segment.history, stages),
        last_step=segment.last_step,
    )


def _refuse_to_prepare() -> None:
    raise InputError(
        "the data of a stage is missing, and a replay prepares none: it would not be known for the data of the run;"
        " restore it, or say where a copy lies with --set data.uri=URI (or data.stages[i].uri)",
        reason="DataMissing",
    )
