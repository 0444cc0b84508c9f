"""The specification's sections turned into the settings of model, optimizer and parallelism.

Those modules import torch alone and know nothing of specifications; this is the one place where both meet.
"""

from __future__ import annotations

import torch

from llm360.spec import ResolvedRun
from llm360.spec.model import Model
from llm360_trainer.model import DecoderConfig, decoder_from_section
from llm360_trainer.optim import OptimizerSettings
from llm360_trainer.parallel import ParallelSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp32": torch.float32, "bf16": torch.bfloat16}


def decoder_config(model: Model) -> DecoderConfig:
    """The decoder that `spec.model` describes."""
    return decoder_from_section(model.model_dump(mode="json", by_alias=True))


def optimizer_settings(run: ResolvedRun) -> OptimizerSettings:
    """AdamW's constants as `spec.training.optimizer` gives them."""
    optimizer = run.spec.training.optimizer
    return OptimizerSettings(
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        epsilon=optimizer.epsilon,
        weight_decay=optimizer.weight_decay,
        weight_decay_on=optimizer.weight_decay_on,
        matrix_learning_rate_multiplier=optimizer.matrix_learning_rate_multiplier,
    )


def parallel_settings(run: ResolvedRun) -> ParallelSettings:
    """Precision, recomputation and compilation."""
    return ParallelSettings(
        param_dtype=DTYPES[run.spec.training.precision],
        activation_checkpointing=run.spec.parallelism.activation_checkpointing,
        compile=run.spec.parallelism.compile,
    )
