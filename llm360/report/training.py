"""How a model was built and trained, as short lines of Markdown out of a run's identity.

A section that this version does not understand, another's perhaps, gives no line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from llm360.report.markdown import line
from llm360.report.text import counted
from llm360.spec.base import Section
from llm360.spec.model import Model, Weights
from llm360.spec.training import Optimizer, Schedule, Training

Identity = Mapping[str, Any]
S = TypeVar("S", bound=Section)


def sizes_text(identity: Identity) -> str:
    """The sizes of the architecture: `4 layers of width 128, …`."""
    model = _section(Model, identity.get("model"))
    if model is None:
        return ""
    keys = f", {model.num_key_value_heads:,} for keys and values" * (model.num_key_value_heads != model.num_heads)
    return (
        f"{model.num_layers:,} layers of width {model.hidden_size:,}, MLP {model.intermediate_size:,},"
        f" {model.num_heads:,} heads{keys}, {model.vocab_size:,} token ids, {model.max_position_embeddings:,} positions"
    )


def first_weights(identity: Identity) -> Weights | None:
    """The imported weights that the run began with, if any."""
    model = _section(Model, identity.get("model"))
    return model.weights if model else None


def setting_rows(identity: Identity) -> list[tuple[str, str]]:
    """Names and values of the settings that hold for all stages; empty where one is not known, or is not set."""
    preset = line(str(identity.get("preset") or ""))
    training = _section(Training, identity.get("training"))
    if training is None:
        return [("Preset", preset)]
    fp8 = f", products in float8 ({training.fp8})" if training.fp8 else ""
    return [
        ("Preset", preset),
        ("Optimizer", ", ".join(_optimizer(training.optimizer))),
        ("Gradient clip", "" if training.gradient_clip is None else f"norm {training.gradient_clip:g}"),
        ("Sequence length", f"{training.sequence_length:,} tokens"),
        ("Precision", training.precision + fp8),
        ("Deterministic", "yes" if training.deterministic else "no"),
        ("Seed", str(training.seed)),
    ]


def learning_rate_text(identity: Identity, stage: int) -> str:
    """A stage's learning rate from its first step to its last.

    Args:
        identity: The run's.
        stage: Its index.
    """
    stages = (identity.get("data") or {}).get("stages") or []
    own = stages[stage].get("schedule") if stage < len(stages) else None
    schedule = _section(Schedule, own or (identity.get("training") or {}).get("schedule"))
    return ", ".join(_schedule(schedule)) if schedule else ""


def _section(kind: type[S], stated: Any) -> S | None:
    try:
        return kind.model_validate_json(json.dumps(stated))
    except ValidationError:
        return None


def _optimizer(optimizer: Optimizer) -> Iterator[str]:
    yield "AdamW"
    yield f"beta {optimizer.beta1:g} and {optimizer.beta2:g}"
    yield f"epsilon {optimizer.epsilon:g}"
    yield f"weight decay {optimizer.weight_decay:g}" + " on matrices alone" * (optimizer.weight_decay_on == "matrices")
    if optimizer.matrix_learning_rate_multiplier != 1:
        yield f"learning rate of the blocks' matrices times {optimizer.matrix_learning_rate_multiplier:g}"


def _schedule(schedule: Schedule) -> Iterator[str]:
    if schedule.warmup_steps:
        yield f"warm-up of {counted(schedule.warmup_steps, 'step')}"
    if schedule.kind == "constant":
        yield f"constant {schedule.peak_learning_rate:g}"
        return
    by = f" at step {schedule.decay_steps:,}" if schedule.decay_steps else ""
    yield f"{schedule.kind} from {schedule.peak_learning_rate:g} to {schedule.end_learning_rate:g}{by}"
    if schedule.min_learning_rate:
        yield f"not below {schedule.min_learning_rate:g}"
