"""`spec.training`: everything that decides the numbers of the training itself."""

from __future__ import annotations

import math
from typing import Literal

from llm360.spec.base import MAX_EXACT, MAX_STEPS, Section, optional, setting


class Optimizer(Section):
    """AdamW, with decoupled weight decay."""

    kind: Literal["adamw"] = setting("The optimizer.")
    beta1: float = setting("Decay of the first moment.", unit="ratio", ge=0, lt=1)
    beta2: float = setting("Decay of the second moment.", unit="ratio", ge=0, lt=1)
    epsilon: float = setting("Added to the root of the second moment.", unit="gradient", gt=0, le=1)
    weight_decay: float = setting(
        "Share of a weight that a step takes away, times the learning rate.", unit="ratio", ge=0, le=10
    )
    weight_decay_on: Literal["all", "matrices"] = setting(
        "all: every parameter decays (Amber); matrices: biases and norms do not."
    )
    matrix_learning_rate_multiplier: float = setting(
        "Multiplies the learning rate of the matrices inside the blocks (muP; CrystalCoder 0.0625).",
        unit="ratio",
        gt=0,
        le=1e6,
    )


class Schedule(Section):
    """Learning rate by finished optimizer steps: a linear rise from 0, then the decay."""

    kind: Literal["cosine", "linear", "constant"] = setting("Form of the decay after the warm-up.")
    peak_learning_rate: float = setting("Learning rate at the end of the warm-up.", unit="1", gt=0, le=10)
    end_learning_rate: float = setting(
        "Learning rate at the end of the decay and from then on; constant does not use it.", unit="1", ge=0, le=10
    )
    warmup_steps: int = setting(
        "Steps over which the learning rate rises linearly from 0 to the peak.", unit="steps", ge=0, le=MAX_STEPS
    )
    decay_steps: int | None = optional(
        "Step, counted from the stage's first with the warm-up included, at which the decay reaches endLearningRate."
        " Unset: the stage's last step.",
        unit="steps",
        ge=1,
        le=MAX_STEPS,
    )
    min_learning_rate: float | None = optional(
        "Learning rate below which the decay does not fall: GPT-NeoX's cosine goes to 0 and stops here (Pythia). Unset:"
        " no floor.",
        unit="1",
        ge=0,
        le=10,
    )

    def decay_end(self, num_steps: int) -> int:
        """Finished steps of the stage at which the decay ends.

        Args:
            num_steps: Steps of the stage.
        """
        return self.decay_steps or num_steps

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of the update that follows `step` finished ones: Python's floats, the same on every machine.

        The order of operations is that of Amber's `main.py`, so that its numbers come out to the last bit; it is also
        Megatron's (K2).

        Args:
            step: Finished optimizer steps of the stage, from 0.
            num_steps: Steps of the stage.
        """
        if step < self.warmup_steps:
            return self.peak_learning_rate * step / self.warmup_steps
        if self.kind == "constant":
            return self.peak_learning_rate
        rate = self._decayed(step - self.warmup_steps, self.decay_end(num_steps) - self.warmup_steps)
        return rate if self.min_learning_rate is None else max(rate, self.min_learning_rate)

    def _decayed(self, step: int, num_steps: int) -> float:
        """The rate after `step` of the decay's `num_steps` steps."""
        if step >= num_steps:
            return self.end_learning_rate
        progress = step / num_steps
        share = 0.5 * (1.0 + math.cos(math.pi * progress)) if self.kind == "cosine" else 1.0 - progress
        return self.end_learning_rate + share * (self.peak_learning_rate - self.end_learning_rate)


class Training(Section):
    """Batch, length, optimizer, schedule, precision and seed."""

    seed: int = setting(
        "Seed of the first values, and of the data that a recipe prepares.", unit="1", ge=0, le=MAX_EXACT
    )
    sequence_length: int = setting("Inputs per sequence, as in every row of the data.", unit="tokens", ge=1, le=2**24)
    batch_size: int = setting(
        "Sequences per optimizer step over all workers; it need not be a multiple of their number.",
        unit="sequences",
        ge=1,
        le=2**24,
    )
    steps: int | None = optional(
        "Most optimizer steps of a stage. Unset: as many as its data gives.", unit="steps", ge=1, le=MAX_STEPS
    )
    optimizer: Optimizer = setting("The optimizer.")
    schedule: Schedule = setting("The learning rate's schedule.")
    gradient_clip: float | None = optional(
        "Largest global norm of the gradient; a longer one is scaled down to it. Unset: no limit.",
        unit="gradient norm",
        gt=0,
        le=1e6,
    )
    precision: Literal["fp32", "bf16"] = setting(
        "Of parameters and activations in a step; master weights, optimizer state and reductions are always fp32."
    )
    deterministic: bool = setting(
        "Whether only deterministic kernels are used, so that the same device, world size and threads give the"
        " same bits."
    )
    fp8: Literal["tensorwise", "rowwise"] | None = optional(
        "Matrix products of the blocks in float8 (torchao), operands scaled as wholes or by their rows; needs precision"
        " bf16 and GPUs that have such units. A matrix takes part where its sizes are multiples of 16. Unset: none."
    )
    document_mask: bool | None = optional(
        "Whether a position sees only its own document of those packed into a row; documents end with the tokenizer's"
        " end-of-document token. Unset: false, it sees all of the row before it."
    )
