"""The only writer of a run's training entries: an actor beside the driver that all ranks talk to.

    ranks ──step records, checkpoint parts, questions──▶ Recorder ──one thread, in order──▶ ledger
    driver ◀──drain(): records, events, outcome──┘         └──▶ /status, /metrics

Handing over never waits for storage: a step's record is kept in memory, and every commit is done by one
thread in the order in which it was asked for. That thread waits while the store is away, so a training goes on
until its next checkpoint needs its turn. What ends the run is the `outcome`; it is set once and every rank is told
to stop.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

from llm360.errors import AttemptsExhaustedError, IntegrityError, LLM360Error
from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.layout import checkpoint_prefix, manifest_key
from llm360.release.metrics import StepRecord, write_segment
from llm360.release.prune import apply_retention
from llm360.release.writer import TrainingWriter
from llm360.report.text import counted
from llm360.spec import ResolvedRun, resolved_from_json
from llm360.storage import open_storage
from llm360_trainer.checkpoint.parts import CheckpointIncompleteError, RankPart, merge_parts
from llm360_trainer.driver.attempts import Attempts
from llm360_trainer.driver.commits import Commits
from llm360_trainer.driver.environment import describe_environment
from llm360_trainer.driver.labels import checkpoint_labels
from llm360_trainer.driver.messages import Outbox, Outcome, RecorderInput, Update
from llm360_trainer.driver.metrics import RunMetrics
from llm360_trainer.driver.pinned import stage_entry
from llm360_trainer.driver.push import MetricsPush
from llm360_trainer.driver.resume import plan_attempt, refuse
from llm360_trainer.driver.service import StatusService
from llm360_trainer.driver.status import run_status
from llm360_trainer.train.plan import AttemptPlan, Command, GroupInfo, StagePlan, WorkerReport

METRICS_SECONDS = 300.0
"""A segment of step records is committed at least this often (and at every checkpoint and stop)."""

FENCE_SECONDS = 5.0
"""How often the ledger is looked at for a newer attempt; the ledger's contract asks for at least every 10 s."""


class Recorder:
    """See the module. Made into an actor by the driver; its public methods may run in several threads at once.

    Args:
        given: From the driver.
    """

    def __init__(self, given: RecorderInput) -> None:
        self._given = given
        self._run: ResolvedRun = resolved_from_json(given.run_json)
        self._storage = open_storage(self._run.store, given.options)
        self._ledger = open_release(self._storage)
        self._writer: TrainingWriter | None = None
        self._known = self._ledger.history()
        self._lock = threading.Lock()
        self._outbox = Outbox()
        self._over = threading.Event()
        self._stopping: Outcome | None = None  # once somebody wants the run to stop
        self._pending: list[StepRecord] = []
        self._batch: list[StepRecord] = []
        self._parts: dict[int, dict[int, RankPart]] = {}  # by step and rank
        self._world = 0
        self._peak_memory = 0
        self._last_record: StepRecord | None = None
        self._attempts = Attempts(self._run.spec.recovery.max_attempts)
        self._started = time.time()
        self._metrics = RunMetrics(self._run, given.stages, self._known, self._outbox.say)
        self._commits = Commits(self._over, self._outbox.say, self._metrics.note_waiting, self._end)
        self._service = StatusService(
            self.status,
            self._metrics.registry,
            host=given.host,
            port=given.port,
            say=self._outbox.say,
        )
        self._push = (
            MetricsPush(given.push, self._run.name, self._metrics.registry, self._outbox.say) if given.push else None
        )
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    # -- asked by the ranks --------------------------------------------------------------------------------

    def begin_attempt(self, group: GroupInfo) -> AttemptPlan | None:
        """Claim an attempt for a worker group that has just started; None where it has nothing to do."""
        writer = TrainingWriter(self._ledger)
        return self._commits.now(lambda: self._begin(writer, group))

    def fall_back(self, refused: str, problem: str) -> AttemptPlan | None:
        """Record that a checkpoint does not verify, and plan from the newest before it."""

        def fall_back() -> AttemptPlan:
            checkpoint = self._history().all_checkpoints[refused]
            refuse(self._claimed(), self._ledger, checkpoint, problem, self._outbox.say)
            return self._plan()

        return self._commits.now(fall_back)

    def rewind(self, step: int, problem: str) -> AttemptPlan | None:
        """Record that `step` (of the run, from 0) is left out from now on, and plan from the last checkpoint."""

        def rewind() -> AttemptPlan:
            self._commit_metrics()
            writer, history = self._claimed(), self._history()
            stage = self._stage_of(step)
            writer.skip(step, stage.tokens_after(step), stage.index, [step - stage.first_step], problem)
            writer.rewind(step + 1, history.resume_point().checkpoint, problem)
            self._outbox.say(
                f"{problem}; going back to step {history.resume_point().step} and leaving step {step + 1} out"
            )
            return self._plan()

        return self._commits.now(rewind)

    def record_step(self, record: StepRecord) -> Command:
        """Take a finished step in; only here is known which rank has used the most memory.

        A rank of a group that was replaced may still report: it is told to stop, and what it made is not the run's.
        """
        with self._lock:
            if self._writer is None or record.attempt != self._writer.attempt:
                return Command.STOP
            record = replace(record, memory_bytes=max(record.memory_bytes, self._peak_memory))
            self._pending.append(record)
            self._last_record = record
        self._attempts.is_training = True  # though the end of the group before may be told late
        self._outbox.record(record)
        self._metrics.observe(record, self._world)
        if self._over.is_set():
            return Command.STOP
        return Command.CHECKPOINT if self._stopping is not None else Command.CONTINUE

    def nonfinite(self, step: int, problem: str) -> Command:
        """Decide by `recovery.nonFinite` what becomes of a step whose loss or gradient is not finite."""
        policy = self._run.spec.recovery.non_finite
        if policy == "rewind":
            return Command.REWIND
        if policy == "halt":
            self._end(
                AttemptsExhaustedError(
                    f"{problem}; recovery.nonFinite is 'halt': look at the data of this step"
                    f" (llm360 data show … --step {step}), or go on with recovery.nonFinite set to 'skip' or 'rewind'",
                    reason="NonFinite",
                )
            )
            return Command.STOP
        stage = self._stage_of(step)
        self._commits.later(
            lambda: self._claimed().skip(
                step, stage.tokens_after(step), stage.index, [step - stage.first_step], problem
            )
        )
        self._outbox.say(f"{problem}; the update is skipped")
        return Command.CONTINUE

    def checkpoint_part(self, part: RankPart) -> None:
        """Take one rank's part of a checkpoint in; the last one has it committed. Other attempts' parts are litter."""
        with self._lock:
            if not self._is_own(part):
                return
            parts = self._parts.setdefault(part.step, {})
            parts[part.rank] = part
            is_complete = len(parts) == self._world
            if is_complete:
                del self._parts[part.step]
        if is_complete:
            self._commits.later(lambda: self._commit_checkpoint(list(parts.values())))

    def stopped(self, step: int) -> None:
        """End the run for this driver, after the checkpoint of `step` finished steps, handed over before."""

        def stopped() -> None:
            assert self._stopping is not None, "ranks stop only when they are asked to"
            outcome = self._stopping
            if self._history().resume_point().step == step:
                message = f"interrupted after step {step}, which is checkpointed; run it again to go on from there"
                outcome = replace(outcome, message=message)
            self._set_outcome(outcome)

        self._commits.now(stopped)

    def finish(self) -> None:
        """Commit the end of the run, after everything that was handed over before."""

        def finish() -> None:
            self._commit_metrics()
            self._check_end()
            self._claimed().complete()
            self._note_head()
            self._set_outcome(Outcome(0, "Complete", f"{self._run.name} is complete"))

        self._commits.now(finish)

    def report(self, report: WorkerReport) -> None:
        """Take in and show what a rank says of itself."""
        with self._lock:
            self._peak_memory = max(self._peak_memory, report.memory_bytes)
        self._metrics.report(report)

    def event(self, text: str) -> None:
        """Pass a sentence on to whoever watches."""
        self._outbox.say(text)

    def fail(self, message: str, reason: str, exit_code: int) -> None:
        """A rank cannot go on."""
        self._attempts.told(message)
        if exit_code in (2, 3):
            self._set_outcome(Outcome(exit_code, reason, message))
        else:
            self._say_failure()
            self._stop_without_checkpoint()

    def group_failed(self, problem: str) -> None:
        """Count a worker group that died before it claimed an attempt, and end the run where `recovery` allows no more.

        Args:
            problem: What Ray Train says of it; told where no rank could say why it fails.
        """
        is_unexplained = self._attempts.group_failed()
        self._stop_without_checkpoint()
        self._commits.later(lambda: self._count_group(problem if is_unexplained else ""))

    # -- asked by the driver and by watchers ---------------------------------------------------------------

    def drain(self) -> Update:
        """What happened since the last call."""
        return self._outbox.drain()

    def interrupt(self, exit_code: int, signal: str) -> None:
        """End the run for this driver: after a checkpoint of the steps since the last one, or at once.

        At once where nothing is lost by that, where no rank is at work or the store is away, so that no checkpoint
        would be committed soon, and when it is asked for again. `flush` commits the records kept so far.

        Args:
            exit_code: The driver's.
            signal: Name of the signal that asks for it.
        """
        is_asked_again = self._stopping is not None
        self._stopping = Outcome(exit_code, "Interrupted", "interrupted; run it again to go on")
        seconds = self._run.spec.recovery.stop_seconds
        if is_asked_again:
            self._outbox.say(f"{signal}: the checkpoint is not committed in {seconds} s; stopping without it")
        elif seconds and (steps := self._steps_at_stake()):
            self._outbox.say(
                f"{signal}: checkpointing the {counted(steps, 'step')} since the last checkpoint, then stopping"
                f" (at most {seconds} s; once more stops at once)"
            )
            return
        else:
            self._outbox.say(f"{signal}: committing the records so far and stopping")
        self._set_outcome(self._stopping)

    def flush(self) -> None:
        """Wait until everything handed over so far is committed, records included."""
        if self._writer is not None:
            self._commits.now(self._commit_metrics, even_if_over=True)

    def tell_end(self, seconds: float) -> None:
        """Wait until whoever follows `/status` or `/metrics` has read how the run ended; at once where nobody does."""
        self._service.wait_for_readers(seconds)

    def push_end(self) -> None:
        """Push a last time, where metrics are pushed."""
        if self._push:
            self._push.close()

    def close(self) -> None:
        """Stop serving and watching; what is under way is left."""
        self._over.set()
        self._service.close()
        self._commits.close()

    def port(self) -> int:
        """The port of `/status` and `/metrics`."""
        return self._service.port

    def status(self) -> dict[str, Any]:
        """The run's status as `/status` shows it; fields as in the resource's status."""
        record, outcome = self._last_record, self._outbox.outcome
        total_steps = self._given.stages[-1].last_step
        return run_status(self._run.name, total_steps, self._known, record, outcome, self._attempts)

    # -- commits, all in one thread ------------------------------------------------------------------------

    def _begin(self, writer: TrainingWriter, group: GroupInfo) -> AttemptPlan | None:
        self._stop_without_checkpoint()
        if self._writer is not None:
            self._commit_metrics()
            self._over.wait(self._run.spec.recovery.backoff_seconds)
        if self._over.is_set():
            return None
        spec = self._run.spec
        if self._history().complete is not None:
            self._set_outcome(Outcome(0, "Complete", f"{self._run.name} is complete already"))
            return None
        if self._writer is not writer:
            self._attempts.check()
        operations = self._run.operations()
        writer.claim(
            world_size=group.world_size,
            device=spec.cluster.workers.device,
            operations=operations,
            environment=describe_environment(group, operations, spec.cluster.image),
        )
        if self._writer is not writer:  # not yet counted: the store may have gone away further down
            with self._lock:  # what ranks of the group before hand over from here on is not taken in
                self._writer = writer
                self._world = group.world_size
                self._peak_memory = 0
                self._parts.clear()
                self._pending.clear()
            self._attempts.claimed()
            self._metrics.forget_workers()
        for stage in self._given.stages:
            writer.stage(stage_entry(self._run, stage, writer.attempt))
        plan = self._plan()
        start = f"step {plan.first_step}" if plan.resume else "the beginning"
        self._outbox.say(
            f"attempt {plan.attempt} starts from {start} on {group.world_size} workers", attempt=plan.attempt
        )
        self._note_head()
        return plan

    def _count_group(self, problem: str) -> None:
        if self._attempts.count_group():
            if problem:
                self._attempts.failure = problem
                self._say_failure()
            self._attempts.check()

    def _say_failure(self) -> None:
        if not self._over.is_set():
            self._outbox.say(f"a worker failed: {self._attempts.failure}")

    def _plan(self) -> AttemptPlan:
        return plan_attempt(self._claimed(), self._ledger, self._given.stages, self._outbox.say)

    def _commit_metrics(self, last_step: int | None = None) -> None:
        """Commit the records kept in memory, up to `last_step`; they stay in memory until that has succeeded."""
        while batch := self._next_batch(last_step):
            self._claimed().metrics(batch[0].step, batch[-1].step, batch[-1].tokens, write_segment(batch))
            with self._lock:
                del self._pending[: len(batch)]
                self._batch = []
            self._note_head()

    def _next_batch(self, last_step: int | None) -> list[StepRecord]:
        """The next segment's records. One whose answer was lost is tried again as it was, so that it counts once."""
        with self._lock:
            if not self._batch:
                self._batch = [record for record in self._pending if last_step is None or record.step <= last_step]
            return self._batch

    def _commit_checkpoint(self, parts: list[RankPart]) -> None:
        step = parts[0].step
        stage = self._stage_of(max(step - 1, 0))
        writer = self._claimed()
        if not self._is_own(parts[0]):  # a newer attempt was claimed while they waited for their turn
            return
        self._commit_metrics(step)
        try:
            manifest = merge_parts(
                parts,
                tokens=stage.tokens_after(step),
                attempt=writer.attempt,
                config_digest=self._history().config_digest,
            )
        except CheckpointIncompleteError as error:
            self._outbox.say(error.message)
            return
        self._storage.put(manifest_key(manifest.prefix), manifest.encode())
        published = stage.publishes(self._run.spec.checkpoints, step)
        labels = checkpoint_labels(self._given.stages, self._run, stage, step) if published else ()
        writer.checkpoint(manifest, labels=labels, published=published)
        self._attempts.checkpointed()
        name = labels[0] if labels else f"resume checkpoint of step {step}"
        self._outbox.say(f"{name} committed at step {step}, {manifest.total_bytes / 2**20:.1f} MiB", checkpoint=name)
        apply_retention(writer, keep_state=self._run.spec.checkpoints.keep_state)
        self._note_head()

    # -- small things --------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Look for a newer attempt every few seconds, and commit records every few minutes."""
        last_commit = time.monotonic()
        while not self._over.wait(FENCE_SECONDS):
            writer = self._writer
            if writer is None:
                continue
            try:
                writer.check_fenced()
            except LLM360Error as error:
                if error.exit_code == 3 or isinstance(error, IntegrityError):
                    self._end(error)
            if time.monotonic() - last_commit >= METRICS_SECONDS:
                last_commit = time.monotonic()
                self._commits.later(self._commit_metrics)

    def _claimed(self) -> TrainingWriter:
        assert self._writer is not None, "an attempt is claimed before anything is committed"
        return self._writer

    def _is_own(self, part: RankPart) -> bool:
        """Whether a part was written by the attempt that is at work, and not by a rank of an older one."""
        return self._writer is not None and part.prefix == checkpoint_prefix(part.step, self._writer.attempt)

    def _check_end(self) -> None:
        """See that the run's last checkpoint is committed, which is its outcome."""
        last, newest = self._given.stages[-1].last_step, self._history().latest_checkpoint
        if newest is None or newest.step < last:
            raise CheckpointIncompleteError(
                f"all {last} steps are done, but the checkpoint after the last one is not committed;"
                " run it again to make it"
            )

    def _history(self) -> History:
        return self._ledger.history()

    def _steps_at_stake(self) -> int:
        """Steps that would be made again if the run stopped now, and that a checkpoint soon would save."""
        record, writer = self._last_record, self._writer
        if record is None or writer is None or record.attempt != writer.attempt:
            return 0  # this attempt has made none
        if not self._attempts.is_training or self._commits.is_store_away:
            return 0
        return max(0, record.step - self._known.resume_point().step)

    def _stop_without_checkpoint(self) -> None:
        """The ranks that were to write a checkpoint before they stop are gone."""
        if self._stopping is not None:
            self._set_outcome(self._stopping)

    def _note_head(self) -> None:
        """Keep what the ledger says now for `/status`, which must never wait for the store."""
        self._known = self._history()
        self._metrics.note_ledger(self._known)

    def _stage_of(self, step: int) -> StagePlan:
        """The stage that step `step` of the run, counted from 0, belongs to."""
        return next(stage for stage in self._given.stages if step < stage.last_step)

    def _end(self, error: LLM360Error) -> None:
        self._set_outcome(Outcome(error.exit_code, error.reason, error.message))

    def _set_outcome(self, outcome: Outcome) -> None:
        self._outbox.end(outcome)
        self._over.set()
