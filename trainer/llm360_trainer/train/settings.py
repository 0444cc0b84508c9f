"""The specification's sections turned into the settings of model, optimizer and parallelism.

Those modules import torch alone and know nothing of specifications; this is the one place where both meet.
"""

from __future__ import annotations

import torch

from llm360.data.manifest import DataManifest
from llm360.errors import InputError
from llm360.spec import ResolvedRun
from llm360.spec.base import quantity_bytes
from llm360.spec.model import Model
from llm360_trainer.model import DecoderConfig, decoder_from_section, unavailable
from llm360_trainer.optim import OptimizerSettings
from llm360_trainer.parallel import ParallelSettings, choose_attention, fp8_unavailable, with_measured_recomputation

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


def parallel_settings(run: ResolvedRun, device: torch.device, *, micro_batch: int, length: int) -> ParallelSettings:
    """Precision, recomputation, compilation, kernels; what the specification leaves to measurement is measured here.

    Every rank must call it: they measure together.

    Args:
        run: The specification.
        device: This rank's.
        micro_batch: Sequences of a forward and backward.
        length: Inputs per sequence.

    Raises:
        InputError: the device or a library has not what the specification asks for.
    """
    parallelism, training = run.spec.parallelism, run.spec.training
    dtype, config = DTYPES[training.precision], decoder_config(run.spec.model)
    if parallelism.attention == "auto":
        in_documents = bool(training.document_mask)
        attention = choose_attention(config, micro_batch, length, dtype, device, in_documents=in_documents)
    else:
        attention = parallelism.attention
        _refuse("parallelism.attention", attention, unavailable(attention, device, dtype))
    if training.fp8 is not None:
        _refuse("training.fp8", training.fp8, fp8_unavailable(training.fp8, device))
    settings = ParallelSettings(
        param_dtype=dtype,
        activation_checkpointing=parallelism.activation_checkpointing,
        compile=parallelism.compile,
        reshard_after_forward=parallelism.reshard_after_forward,
        prefetch=parallelism.prefetch,
        attention=attention,
        fp8=training.fp8,
    )
    if parallelism.activation_memory is None:
        return settings
    budget = quantity_bytes(parallelism.activation_memory)
    return with_measured_recomputation(
        settings, config, micro_batch, length, budget, device, in_documents=bool(training.document_mask)
    )


def end_of_document(run: ResolvedRun, manifest: DataManifest) -> int | None:
    """The token that ends a document where positions see their own document only, else None.

    Raises:
        InputError: a mask of documents is asked for, and the data's tokenizer has no such token.
    """
    if not run.spec.training.document_mask:
        return None
    if manifest.tokenizer.eos_id is None:
        raise InputError(
            "spec.training.documentMask is true, but the data's manifest names no end-of-document token (eos_id);"
            " prepare the data with one, or remove documentMask",
            reason="NoEndOfDocument",
        )
    return manifest.tokenizer.eos_id


def _refuse(field: str, value: str, problem: str | None) -> None:
    if problem is not None:
        raise InputError(f"spec.{field} is '{value}', but {problem}", reason="Unsupported")
