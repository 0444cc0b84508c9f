"""The configuration against the stages and checkpoints in the chain: the rest of checks 2 and 4 of `verify`.

Whoever forges a release also writes its configuration, so nothing about its form is taken for granted: a value of
another type is a fault like any other.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from llm360.data.order import StageOrder
from llm360.data.steps import StageSteps
from llm360.errors import InputError, IntegrityError
from llm360.release.checkpoint import first_problem
from llm360.release.entries import Stage
from llm360.release.history import History
from llm360.spec.checkpoints import CheckpointSchedule

T = TypeVar("T")

_NAMES: dict[type, str] = {dict: "an object", list: "a list", str: "a text", int: "a whole number"}


def compare_config(config: Any, history: History) -> Iterator[str]:
    """Check 2: the stages that the chain pins are those that the configuration states.

    A stage takes from `data` and `training` what it does not state itself; where neither states a value, the
    data decides it.

    Raises:
        IntegrityError: a value of the configuration is of another type than its field.
    """
    if not isinstance(config, dict):
        raise IntegrityError(f"is {_shown(config)}; expected an object")
    data, training = section(config, "data"), section(config, "training")
    described = stated(data, "stages", list)
    if described is None:
        yield "describes no stages"
        return
    stages, is_complete = history.stages, history.complete is not None
    if len(stages) > len(described) or (is_complete and len(stages) < len(described)):
        yield f"describes {len(described)} stages; the ledger pins {len(stages)}"
    for stage, own in zip(stages, described, strict=False):
        yield from _compare_stage(stage, _object(own, "a stage"), data, training)


def compare_schedule(config: Any, history: History) -> Iterator[str]:
    """Check 4: of a complete run, each checkpoint that the schedule publishes is there; the first that is not is named.

    Raises:
        IntegrityError: a value of the configuration is of another type than its field.
    """
    if history.complete is None or not isinstance(config, dict):
        return
    schedule = _schedule(config)
    described = stated(section(config, "data"), "stages", list) or []
    published = {known.step for known in history.branch if known.body.published}
    for stage, own in zip(history.stages, described, strict=False):
        every = _first(stated(_object(own, "a stage"), "checkpointEvery", int), schedule.every_steps)
        if every is not None and every < 1:
            raise IntegrityError(f"says that a checkpoint follows every {every} steps; expected at least 1")
        try:
            steps = _PinnedSteps(stage.step, stage.num_steps, stage.tokens, every, stage.order, stage)
        except InputError:  # said where the stage is pinned
            continue
        for step in steps.candidates(schedule):
            if step not in published and steps.publishes_after(schedule, step):
                yield f"the schedule asks for a published checkpoint after step {step}; the branch has none"
                return


def tokenizer_digest(config: Any) -> Any:
    """The digest that the configuration asks of the data's tokenizer, as it stands there; None: any."""
    tokenizer = config.get("tokenizer") if isinstance(config, dict) else None
    return tokenizer.get("digest") if isinstance(tokenizer, dict) else None


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of the configuration; empty where it is not there."""
    return _object(config.get(name), name) if config.get(name) is not None else {}


def stated(values: Mapping[str, Any], field: str, kind: type[T]) -> T | None:
    """A field's value; None where it is not stated.

    Raises:
        IntegrityError: it is of another type.
    """
    value = values.get(field)
    if value is None:
        return None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise IntegrityError(f"says {field} {_shown(value)}; expected {_NAMES[kind]}")
    return value


def _compare_stage(
    stage: Stage, own: Mapping[str, Any], data: Mapping[str, Any], training: Mapping[str, Any]
) -> Iterator[str]:
    name = stated(own, "name", str)
    remainder = _first(stated(own, "remainder", str), stated(data, "remainder", str))
    batch_size = _first(stated(own, "batchSize", int), stated(training, "batchSize", int))
    for field, value, pinned in (
        ("name", name, stage.name),
        ("remainder", remainder, stage.remainder),
        ("batchSize", batch_size, stage.batch_rows),
    ):
        if value is not None and value != pinned:
            yield f"says {field} {value} for stage {stage.stage}; the ledger pins {pinned}"
    yield from _compare_steps(stage, _first(stated(own, "steps", int), stated(training, "steps", int)))
    length = stated(training, "sequenceLength", int)
    # Where labels are shifted inside the row, a sequence gives one prediction less.
    if length is not None and stage.predictions not in (length, length - 1):
        yield f"says sequenceLength {length}; the ledger pins {stage.predictions} predictions of a row"


def _compare_steps(stage: Stage, steps: int | None) -> Iterator[str]:
    """A stage has the steps that its rows fill, or as many as it is allowed: fewer would be a part of a run."""
    try:
        available = stage.order.num_steps
    except InputError:  # said where the stage is pinned
        return
    expected = available if steps is None else min(steps, available)
    if stage.num_steps != expected:
        limit = "sets no number of steps" if steps is None else f"says at most {steps} steps"
        yield f"{limit} for stage {stage.stage}, whose rows fill {available}; the ledger pins {stage.num_steps}"


def _schedule(config: Mapping[str, Any]) -> CheckpointSchedule:
    """The schedule of a configuration; where it has none, only the ends of stages are published."""
    values = section(section(config, "checkpoints"), "schedule")
    wanted = {
        "initial": values.get("initial", False),
        "everyChunk": values.get("everyChunk", False),
        "everySteps": values.get("everySteps"),
        "steps": tuple(stated(values, "steps", list) or ()),
    }
    try:
        return CheckpointSchedule.model_validate(wanted)
    except ValidationError as error:
        raise IntegrityError(f"has a schedule of checkpoints that is none: {first_problem(error)}") from error


@dataclass(frozen=True)
class _PinnedSteps(StageSteps):
    """A stage as the ledger pins it."""

    first_step: int
    num_steps: int
    first_tokens: int
    checkpoint_every: int | None
    order: StageOrder
    stage: Stage

    @property
    def step_tokens(self) -> int:
        """See `StageSteps`."""
        return self.stage.batch_rows * self.stage.predictions

    def candidates(self, schedule: CheckpointSchedule) -> Iterator[int]:
        """Finished steps of the run after which a checkpoint may be published: not all, a stage may have billions."""
        if self.first_step == 0:
            yield 0
        yield from (step for step in schedule.steps if self.first_step < step <= self.last_step)
        if schedule.every_chunk:
            yield from (self.first_step + end for end in self.order.chunk_end_steps() if end <= self.num_steps)
        if self.checkpoint_every is not None:
            yield from range(self.first_step + self.checkpoint_every, self.last_step + 1, self.checkpoint_every)
        yield self.last_step


def _first(value: T | None, otherwise: T | None) -> T | None:
    return otherwise if value is None else value


def _object(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise IntegrityError(f"says {what} {_shown(value)}; expected {_NAMES[dict]}")
    return value


def _shown(value: Any) -> str:
    return repr(value)[:80]
