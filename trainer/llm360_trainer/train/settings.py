"""The specification's sections turned into the settings of model, optimizer and parallelism.

Those modules import torch alone and know nothing of specifications; this is the one place where both meet.
"""

from __future__ import annotations

from typing import Any

import torch

from llm360.spec import ResolvedRun
from llm360.spec.model import Initializer as InitializerSpec
from llm360.spec.model import Model
from llm360_trainer.model import DecoderConfig, Initializer, InitialValues
from llm360_trainer.optim import OptimizerSettings
from llm360_trainer.parallel import ParallelSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "fp32": torch.float32, "bf16": torch.bfloat16}


def decoder_config(model: Model) -> DecoderConfig:
    """The decoder that `spec.model` describes."""
    return DecoderConfig(
        vocab_size=model.vocab_size,
        hidden_size=model.hidden_size,
        intermediate_size=model.intermediate_size,
        num_layers=model.num_layers,
        num_heads=model.num_heads,
        num_kv_heads=model.num_key_value_heads,
        head_dim=model.head_dim,
        max_position_embeddings=model.max_position_embeddings,
        norm=model.norm.kind,
        norm_epsilon=model.norm.epsilon,
        rotary_base=model.rotary.base,
        rotary_fraction=model.rotary.fraction,
        rotary_layout=model.rotary.layout,
        mlp=model.mlp,
        residual=model.residual,
        attention_bias=model.attention_bias,
        mlp_bias=model.mlp_bias,
        output_bias=model.output_bias,
        tied_embeddings=model.tied_embeddings,
        embeddings_scale=model.mup.embeddings_scale,
        output_logits_scale=model.mup.output_logits_scale,
        attention_scale=model.mup.attention_scale,
        initial=InitialValues(
            embedding=_initializer(model.initialization.embedding),
            hidden=_initializer(model.initialization.hidden),
            output=_initializer(model.initialization.output),
        ),
    )


def model_section(config: DecoderConfig) -> dict[str, Any]:
    """The inverse of `decoder_config`, without the law of the first values: `spec.model` in JSON types."""
    return {
        "vocabSize": config.vocab_size,
        "hiddenSize": config.hidden_size,
        "intermediateSize": config.intermediate_size,
        "numLayers": config.num_layers,
        "numHeads": config.num_heads,
        "numKeyValueHeads": config.num_kv_heads,
        "headDim": config.head_dim,
        "maxPositionEmbeddings": config.max_position_embeddings,
        "norm": {"kind": config.norm, "epsilon": config.norm_epsilon},
        "rotary": {
            "base": config.rotary_base,
            "fraction": config.rotary_fraction,
            "layout": config.rotary_layout,
        },
        "mlp": config.mlp,
        "residual": config.residual,
        "attentionBias": config.attention_bias,
        "mlpBias": config.mlp_bias,
        "outputBias": config.output_bias,
        "tiedEmbeddings": config.tied_embeddings,
        "mup": {
            "embeddingsScale": config.embeddings_scale,
            "outputLogitsScale": config.output_logits_scale,
            "attentionScale": config.attention_scale,
        },
    }


def _initializer(spec: InitializerSpec) -> Initializer:
    return Initializer(kind=spec.kind, std=spec.std, cut=spec.cut)


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
