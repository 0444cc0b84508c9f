"""The recorder of a replay: ranks talk to it as to a run's, but it commits nothing; it keeps what is to be compared."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llm360.release.metrics import StepRecord
from llm360_trainer.checkpoint.parts import RankPart, merge_parts
from llm360_trainer.driver.environment import describe_environment
from llm360_trainer.driver.messages import Outbox, Outcome, Update
from llm360_trainer.replay.comparison import Digests, Replayed, is_same_loss
from llm360_trainer.replay.segment import StepLoss
from llm360_trainer.train.plan import AttemptPlan, Command, GroupInfo, WorkerReport


@dataclass(frozen=True)
class ReplayInput:
    """What the driver gives to the recorder.

    Attributes:
        plan: Where the ranks start and end.
        losses: What was recorded, by step.
        operations: Settings outside the run's identity.
        image: Image that the ranks run in; None where they run in none.
    """

    plan: AttemptPlan
    losses: Mapping[int, StepLoss]
    operations: dict[str, Any]
    image: str | None


class ReplayRecorder:
    """See the module. Made into an actor by the driver; its methods may run in several threads at once.

    The first failure ends a replay: nothing is lost, and the same command starts it again.

    Args:
        given: From the driver.
    """

    def __init__(self, given: ReplayInput) -> None:
        self._given = given
        self._lock = threading.Lock()
        self._outbox = Outbox()
        self._losses: dict[int, StepLoss] = {}
        self._parts: dict[int, list[RankPart]] = {}
        self._digests: dict[int, Digests] = {}
        self._environment: dict[str, Any] = {}
        self._has_differed = False

    # -- asked by the ranks (train.plan.Recorder) ----------------------------------------------------------

    def begin_attempt(self, group: GroupInfo) -> AttemptPlan | None:
        """The plan, for the first group; a second one stands for a failure and has nothing to do."""
        with self._lock:
            if self._environment or self._outbox.outcome is not None:
                return None
            self._environment = describe_environment(group, self._given.operations, self._given.image)
        return self._given.plan

    def fall_back(self, refused: str, problem: str) -> AttemptPlan | None:  # noqa: ARG002
        """The checkpoint to start from does not verify: nothing can be said of what follows it."""
        self._outbox.end(Outcome(1, "IntegrityFailed", f"{problem}; nothing was replayed"))
        return None

    def record_step(self, record: StepRecord) -> Command:
        """Keep a step's loss, and say where the first differs from the recorded one."""
        made, recorded = StepLoss(record.loss, record.skipped), self._given.losses[record.step]
        with self._lock:
            self._losses[record.step] = made
            is_first = not self._has_differed and not is_same_loss(recorded, made)
            self._has_differed |= is_first
        self._outbox.record(record)
        if is_first:
            self.event(f"step {record.step}: the loss is {made.loss!r}, recorded is {recorded.loss!r}")
        return Command.STOP if self._outbox.outcome is not None else Command.CONTINUE

    def nonfinite(self, step: int, problem: str) -> Command:  # noqa: ARG002
        """Go on: what the run did about it is in the ledger, and the plan follows that."""
        return Command.CONTINUE

    def rewind(self, step: int, problem: str) -> AttemptPlan | None:  # noqa: ARG002
        """Never asked for, since `nonfinite` has no step rewound."""
        return None

    def checkpoint_part(self, part: RankPart) -> None:
        """Take one rank's part of a checkpoint in; with the last one its digests are known."""
        with self._lock:
            parts = self._parts.setdefault(part.step, [])
            parts.append(part)
            if len(parts) < part.world_size:
                return
            del self._parts[part.step]
        manifest = merge_parts(parts, tokens=0, attempt=self._given.plan.attempt, config_digest="sha256:" + "0" * 64)
        with self._lock:
            self._digests[part.step] = Digests(manifest.model_digest, manifest.state_digest)

    def stopped(self, step: int) -> None:
        """Never told, since `record_step` asks for no checkpoint."""

    def finish(self) -> None:
        """All steps are made and all parts handed over."""
        self._outbox.end(Outcome(0, "Replayed", "every step of the segment was made"))

    def report(self, report: WorkerReport) -> None:
        """Not kept: a replay is not watched."""

    def event(self, text: str) -> None:
        """Pass a sentence on to whoever watches."""
        self._outbox.say(text)

    def fail(self, message: str, reason: str, exit_code: int) -> None:
        """A rank cannot go on."""
        self._outbox.end(Outcome(exit_code, reason, message))

    def group_failed(self, problem: str) -> None:
        """A rank died without a word."""
        self._outbox.end(Outcome(1, "WorkerFailed", f"a worker failed: {problem}"))

    # -- asked by the driver -------------------------------------------------------------------------------

    def drain(self) -> Update:
        """What happened since the last call."""
        return self._outbox.drain()

    def interrupt(self, exit_code: int, signal: str) -> None:
        """End the replay.

        Args:
            exit_code: The driver's.
            signal: Name of the signal that asks for it.
        """
        self.event(f"{signal}: stopping")
        self._outbox.end(Outcome(exit_code, "Interrupted", "interrupted; nothing was written, run it again"))

    def flush(self) -> None:
        """Nothing is committed."""

    def result(self) -> Replayed:
        """What was made so far."""
        with self._lock:
            return Replayed(dict(self._losses), dict(self._digests), self._environment)
