"""The stages of a run as arithmetic: where each begins, what holds after any of its steps."""

from __future__ import annotations

from dataclasses import dataclass

from llm360.data.order import StageOrder
from llm360.data.steps import StageSteps
from llm360.facts.published import Published
from llm360.spec import ResolvedRun
from llm360.spec.checkpoints import CheckpointSchedule
from llm360.spec.training import Schedule


@dataclass(frozen=True)
class StepFacts:
    """What holds after a number of finished optimizer steps of a stage.

    Attributes:
        stage: Name of the stage.
        step: Finished steps of the stage.
        run_step: Finished steps of the run.
        learning_rate: Of the update that follows; at the stage's end what the schedule gives there.
        batch: Sequences per step.
        chunk: Number of the chunk that the next step reads, at the end the last; None where the data's is not known.
        tokens: Predictions of the run so far.
        checkpoint: Whether a checkpoint is published here.
    """

    stage: str
    step: int
    run_step: int
    learning_rate: float
    batch: int
    chunk: int | None
    tokens: int
    checkpoint: bool


@dataclass(frozen=True)
class StageFacts(StageSteps):
    """A stage of a run.

    Attributes:
        name: Unique in the run.
        first_step: Finished steps of the run when it begins.
        num_steps: Its steps.
        first_tokens: Predictions of the run when it begins.
        batch_size: Sequences per step.
        predictions: Predictions per sequence.
        schedule: Learning rate, by its own steps.
        checkpoint_schedule: The run's.
        checkpoint_every: A checkpoint follows every so many of its steps, if any.
        order: Which rows each step reads; None where the data's chunks are not known.
        chunk_numbers: The original's number of each chunk of `order`.
    """

    name: str
    first_step: int
    num_steps: int
    first_tokens: int
    batch_size: int
    predictions: int
    schedule: Schedule
    checkpoint_schedule: CheckpointSchedule
    checkpoint_every: int | None
    order: StageOrder | None
    chunk_numbers: tuple[int, ...]

    @property
    def step_tokens(self) -> int:
        """See `StageSteps`."""
        return self.batch_size * self.predictions

    @property
    def checkpoints(self) -> int:
        """Number of checkpoints published in the stage; the one before the run's first step is the first stage's."""
        steps = {0, self.num_steps, *(step - self.first_step for step in self.checkpoint_schedule.steps)}
        if self.checkpoint_every is not None:
            steps.update(range(self.checkpoint_every, self.num_steps, self.checkpoint_every))
        if self.order is not None:
            steps.update(self.order.chunk_end_steps())
        first = 0 if self.first_step == 0 else 1  # a later stage's start is the end of the one before
        return sum(self.publishes(step) for step in steps if first <= step <= self.num_steps)

    def publishes(self, step: int) -> bool:
        """Whether a checkpoint is published after `step` finished steps of the stage."""
        return self.publishes_after(self.checkpoint_schedule, self.first_step + step)

    def at(self, step: int) -> StepFacts:
        """What holds after `step` finished steps of the stage, 0 to `num_steps`."""
        return StepFacts(
            stage=self.name,
            step=step,
            run_step=self.first_step + step,
            learning_rate=self.schedule.rate(step, self.num_steps),
            batch=self.batch_size,
            chunk=self._chunk(step),
            tokens=self.tokens_after(self.first_step + step),
            checkpoint=self.publishes(step) or (step == 0 and self.first_step > 0),  # the stage before has ended
        )

    def _chunk(self, step: int) -> int | None:
        if self.order is None:
            return None
        return self.chunk_numbers[self.order.chunk_of(min(step, self.num_steps - 1))]


def stage_facts(run: ResolvedRun, published: Published) -> tuple[StageFacts, ...] | None:
    """The stages of a run; None where a number of steps follows from data that is not known.

    Args:
        run: Has an address of its release, whichever.
        published: Describes the data of a run of one stage.
    """
    facts: list[StageFacts] = []
    for stage in run.stages:
        order = None
        if published.chunks is not None and published.chunk_rows is not None:
            order = StageOrder((published.chunk_rows,) * published.chunks, stage.batch_size, stage.remainder)
        steps = min(filter(None, (stage.steps, order.num_steps if order else None)), default=None)
        if steps is None:
            return None
        previous = facts[-1] if facts else None
        facts.append(
            StageFacts(
                name=stage.name,
                first_step=previous.last_step if previous else 0,
                num_steps=steps,
                first_tokens=previous.tokens_after(previous.last_step) if previous else 0,
                batch_size=stage.batch_size,
                predictions=published.predictions or run.spec.training.sequence_length,
                schedule=stage.schedule,
                checkpoint_schedule=run.spec.checkpoints.schedule,
                checkpoint_every=stage.checkpoint_every,
                order=order,
                chunk_numbers=published.order,
            )
        )
    return tuple(facts)
