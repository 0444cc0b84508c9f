"""One attempt, from its resume point to the end of the run or to a command to leave: a page.

    for each stage, for each segment between checkpoints:
        rows of the step (stream) → TrainStep (torch alone) → record (recorder) → checkpoint where one is due

All decisions are made by all ranks alike: they follow from the plan, from the step's all-reduce, or from rank
0's word, which travels to the others as a flag of the next step's all-reduce.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch

from llm360.release.layout import checkpoint_prefix
from llm360.release.metrics import StepRecord
from llm360.spec import ResolvedRun
from llm360.storage import StorageOptions
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import Decoder, DecoderConfig, model_flops_utilization
from llm360_trainer.step import StepResult, TrainStep
from llm360_trainer.stream import StepRows, StepStream, stream_steps
from llm360_trainer.train.plan import AttemptPlan, Command, Recorder, StagePlan
from llm360_trainer.train.watch import Watch, peak_memory_bytes


class LeaveLoop(Exception):  # noqa: N818  (not an error: how the loop is left early)
    """The ranks agreed to leave the loop.

    Args:
        command: STOP, CHECKPOINT or REWIND.
        step: The step of the run (from 0) that had them leave; of CHECKPOINT the last one that they have made.
        problem: Why, for REWIND.
    """

    def __init__(self, command: Command, step: int, problem: str = "") -> None:
        super().__init__(command.value)
        self.command, self.step, self.problem = command, step, problem


@dataclass
class Loop:
    """The steps of one attempt on one rank.

    Args:
        run: The specification.
        stages: All stages of the run.
        rank: This rank.
        world: Number of ranks.
        config: The decoder's architecture.
        model: The sharded decoder.
        optimizer: Over its parameters.
        step_of: The step function of each stage, by its index.
        model_files: Small files of the model folder of each stage's checkpoints, by its index.
        writer: Writes this rank's part of checkpoints.
        recorder: The driver's recorder.
        options: How storage is reached.
        device: What this rank computes on.
    """

    run: ResolvedRun
    stages: tuple[StagePlan, ...]
    rank: int
    world: int
    config: DecoderConfig
    model: Decoder
    optimizer: torch.optim.Optimizer
    step_of: dict[int, TrainStep]
    model_files: dict[int, dict[str, bytes]]
    writer: CheckpointWriter
    recorder: Recorder
    options: StorageOptions
    device: torch.device
    _command: Command = Command.CONTINUE
    _is_leaving: bool = False
    _stall_seconds: float = 0.0
    _last_end: float = field(default_factory=time.perf_counter)
    _watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self._watch = Watch(self.rank, self.device, self.recorder.report)

    def run_attempt(self, plan: AttemptPlan) -> None:
        """Train from the plan's first step to its last.

        Raises:
            LeaveLoop: the ranks agreed to stop, at once or after a checkpoint, or to rewind.
        """
        if plan.resume is None:
            self._checkpoint_if_due(self.stages[0], 0, plan)
        self._last_end = time.perf_counter()
        self._watch.begin()
        for stage in self.stages:
            skip = {step - stage.first_step for step in plan.skip}
            steps = plan.stage_steps(stage)
            self._enter(stage, steps.start)
            with self._stream(stage, steps, skip) as stream:
                for stage_step in steps:
                    if stage_step in skip:
                        self._pass_over(stage, stage_step, plan)
                    else:
                        self._train(stage, next(stream), plan)
                    finished = stage.first_step + stage_step + 1
                    self._checkpoint_if_due(stage, finished, plan)
                    if self._is_leaving and finished < self._last_step(plan):
                        raise LeaveLoop(Command.CHECKPOINT, finished - 1)
        for part in self.writer.wait():
            self.recorder.checkpoint_part(part)

    def _enter(self, stage: StagePlan, first: int) -> None:
        """Make ready for a stage of which `first` steps are done: its tokenizer in checkpoints, its moments.

        A checkpoint at the end of a stage holds the moments as that stage left them, so they are reset here, both when
        training comes from the stage before and when it resumes from that checkpoint.
        """
        self.writer.model_files = self.model_files[stage.index]
        if first == 0 and stage.resets_moments and stage.index > 0:
            reset_moments(self.optimizer)

    def _stream(self, stage: StagePlan, steps: range, skip: set[int]) -> StepStream:
        return stream_steps(
            stage.data_uri,
            self.options,
            stage.manifest,
            stage.order,
            rank=self.rank,
            world=self.world,
            first_step=min(steps.start, steps.stop),
            last_step=steps.stop,
            skip=skip,
        )

    def _train(self, stage: StagePlan, rows: StepRows, plan: AttemptPlan) -> None:
        """One step of all ranks, and its record."""
        step = stage.first_step + rows.step
        self._watch.step_begins(rows.wait_seconds)
        result = self.step_of[stage.index](
            rows.ids,
            rows.loss_mask,
            rows.source,
            finished_steps=step - stage.moments_from,
            learning_rate=self._learning_rate(stage, rows.step),
            flags=(
                float(self._command is Command.STOP),
                float(self._command is Command.CHECKPOINT),
                rows.wait_seconds / self.world,
            ),
        )
        self._watch.step_ended()
        if result.flags[0] > 0:
            raise LeaveLoop(Command.STOP, step)
        problem = "" if result.finite else describe_nonfinite(step, result)
        decision = self._agree_on_nonfinite(step, problem) if problem else Command.CONTINUE
        self._hand_over(self._record(stage, rows.step, result, plan.attempt))
        if decision is not Command.CONTINUE:
            raise LeaveLoop(decision, step, problem)
        self._is_leaving = result.flags[1] > 0

    def _pass_over(self, stage: StagePlan, stage_step: int, plan: AttemptPlan) -> None:
        """A step that the ledger skips: its rows are not read, the weights stay as they are, the step counts."""
        num_sources = len(stage.manifest.sources)
        zeros = (0.0,) * num_sources
        nothing = StepResult(False, math.nan, 0, zeros, (0,) * num_sources, math.nan, (0.0, 0.0, 0.0))
        self._hand_over(self._record(stage, stage_step, nothing, plan.attempt))

    def _hand_over(self, record: StepRecord) -> None:
        if self.rank == 0:
            self._command = self.recorder.record_step(record)
        self._stall_seconds = 0.0

    def _last_step(self, plan: AttemptPlan) -> int:
        return self.stages[-1].last_step if plan.last_step is None else plan.last_step

    def _learning_rate(self, stage: StagePlan, stage_step: int) -> float:
        return self.run.stages[stage.index].schedule.rate(stage_step, stage.num_steps)

    def _agree_on_nonfinite(self, step: int, problem: str) -> Command:
        """Rank 0 asks the recorder, the others take its word."""
        answer: list[Command | None] = [self.recorder.nonfinite(step, problem) if self.rank == 0 else None]
        torch.distributed.broadcast_object_list(answer, src=0)
        assert answer[0] is not None
        return answer[0]

    def _checkpoint_if_due(self, stage: StagePlan, step: int, plan: AttemptPlan) -> None:
        """Hand over what has been written, and start a checkpoint after `step` finished steps where one is due."""
        resume_every = self.run.spec.checkpoints.resume_every
        is_due = (
            stage.publishes(self.run.spec.checkpoints, step)
            or (resume_every is not None and step > 0 and step % resume_every == 0)
            or step == plan.last_step
            or self._is_leaving
        )
        if is_due:
            self._stall_seconds += self.writer.start(
                step, checkpoint_prefix(step, plan.attempt), self.model, self.optimizer
            )
        for part in self.writer.poll():
            self.recorder.checkpoint_part(part)

    def _record(self, stage: StagePlan, stage_step: int, result: StepResult, attempt: int) -> StepRecord:
        now = time.perf_counter()
        seconds, self._last_end = now - self._last_end, now
        names = [source.name for source in stage.manifest.sources]
        counted = [(n, s, t) for n, s, t in zip(names, result.source_loss_sums, result.source_tokens, strict=True) if t]
        tokens_per_second = result.tokens / seconds
        step = stage.first_step + stage_step + 1
        return StepRecord(
            step=step,
            attempt=attempt,
            stage=stage.index,
            time=datetime.now(UTC),
            tokens=stage.tokens_after(step),
            loss=result.loss,
            source_loss={name: loss / tokens for name, loss, tokens in counted},
            source_tokens={name: tokens for name, _, tokens in counted},
            learning_rate=self._learning_rate(stage, stage_step),
            grad_norm=result.grad_norm,
            step_seconds=seconds,
            tokens_per_second=tokens_per_second,
            mfu=model_flops_utilization(
                self.config, stage.manifest.predictions, tokens_per_second, self.device, self.world
            ),
            data_wait_seconds=result.flags[2],
            checkpoint_stall_seconds=self._stall_seconds,
            memory_bytes=peak_memory_bytes(self.device),
            skipped=not result.finite,
        )


def reset_moments(optimizer: torch.optim.Optimizer) -> None:
    """AdamW's moments as before the first step."""
    for state in optimizer.state.values():
        state["exp_avg"].zero_()
        state["exp_avg_sq"].zero_()


def describe_nonfinite(step: int, result: StepResult) -> str:
    """The sentence that the ledger keeps."""
    return f"step {step + 1}: loss {result.loss}, gradient norm {result.grad_norm}"
