"""How long a step takes at least: its arithmetic against a GPU's peak, its communication against the links.

    arithmetic     tokens of a rank · (6P + 12·L·Q·T) / (peak · MFU), the peak that of bf16
    gather         2 · c·P·(W − 1)/W per micro step; once per step where weights are not freed after forward
    reduce         4·P·(W − 1)/W per step, or per micro step with reduceGradients: each
    replicate      2 · 4·P/W · (R − 1)/R per step, the all-reduce over R replicas (HSDP)

Bytes are what a rank sends (and receives) in ring algorithms, over the slowest link of the ring: NVLink where the
ranks of a ring are one node's, the network otherwise. FSDP gathers a block's weights while the one before it computes
and reduces its gradient while the next does, so what is longer counts, and of the other only the ends show: the
first block's gathering and the last one's reduction. In float8 the matrices of the blocks go by that peak, all else by
bf16's; weights are gathered in the compute dtype as before.

Letters: P parameters, L layers, Q width of attention, T tokens of a sequence, c bytes of the compute dtype, W ranks
that share one copy of the model, R replicas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm360.errors import InputError
from llm360.facts.hardware import Gpu
from llm360.facts.memory import FP32, StepShape, multiplies_in_fp8
from llm360.facts.parameters import block_shapes, num_parameters, parameter_counts
from llm360.spec.model import Model


@dataclass(frozen=True)
class Traffic:
    """Bytes that a rank sends in one optimizer step.

    Attributes:
        gather: Weights.
        reduce: Gradients within a copy of the model.
        replicate: Gradients between copies.
    """

    gather: float
    reduce: float
    replicate: float


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step.

    Attributes:
        compute: Arithmetic at the given share of the peak.
        communicate: Gathering, reducing and replicating one after another, at full speed of the links.
        ends: What of it cannot hide behind arithmetic: a block's gathering and a block's reduction.
    """

    compute: float
    communicate: float
    ends: float

    @property
    def total(self) -> float:
        """Seconds of the step: the longer of the two, and the ends."""
        return max(self.compute, self.communicate) + self.ends


def flops_per_token(model: Model, sequence_length: int) -> float:
    """Floating point operations of forward and backward per token: 6P + 12·L·Q·T (arXiv:2204.02311, appendix B).

    All parameters count, causal attention as if it saw everything, recomputation not.
    """
    width = model.num_heads * model.head_dim
    return 6.0 * num_parameters(model) + 12.0 * model.num_layers * width * sequence_length


def recomputed_flops_per_token(model: Model, step: StepShape) -> float:
    """Operations that backward makes again: with full checkpointing a forward of all blocks, else none that count."""
    if step.checkpointing != "full":  # measured ones are not known before they are measured
        return 0.0
    counts = parameter_counts(model)
    width = model.num_heads * model.head_dim
    return 2.0 * (counts["attention"] + counts["mlp"]) + 4.0 * model.num_layers * width * step.sequence_length


def peak_seconds_per_token(model: Model, step: StepShape, gpu: Gpu) -> float:
    """The least that the peaks allow for a token's forward and backward, recomputation included.

    Raises:
        InputError: the step is in float8, which the GPU has not.
    """
    flops = flops_per_token(model, step.sequence_length) + recomputed_flops_per_token(model, step)
    if not step.fp8:
        return flops / gpu.bf16_flops
    if gpu.fp8_flops is None:
        raise InputError(f"--gpu {gpu.name}: it has no float8 units, which training.fp8 needs; remove training.fp8")
    passes = 8.0 if step.checkpointing == "full" else 6.0  # 2 forward, 4 backward, 2 for a second forward
    in_blocks = sum(math.prod(shape) for shape in block_shapes(model) if multiplies_in_fp8(shape))
    in_fp8 = passes * model.num_layers * in_blocks
    return in_fp8 / gpu.fp8_flops + (flops - in_fp8) / gpu.bf16_flops


def step_traffic(model: Model, step: StepShape, replicas: int) -> Traffic:
    """What a rank sends in a step."""
    parameters, ranks = num_parameters(model), step.shard_ranks
    share = (ranks - 1) / ranks
    reductions = step.micro_steps if step.reduce_each else 1
    gathers = 2 * step.micro_steps if step.reshard else 1
    return Traffic(
        gather=gathers * step.compute_bytes * parameters * share,
        reduce=reductions * FP32 * parameters * share,
        replicate=reductions * 2 * FP32 * parameters / ranks * (replicas - 1) / replicas,
    )


def step_time(
    model: Model, step: StepShape, gpu: Gpu, *, replicas: int, node_gpus: int, mfu: float | None = None
) -> StepTime:
    """Seconds of a step; with no MFU the least that the peak allows, recomputation included.

    Args:
        model: The architecture.
        step: Its shape on a rank.
        gpu: Peak and links.
        replicas: Copies of the model.
        node_gpus: GPUs of a node.
        mfu: Share of bf16's peak that the model's own arithmetic reaches, as measured.

    Raises:
        InputError: the step is in float8, which the GPU has not.
    """
    tokens = step.micro_steps * step.tokens
    compute = tokens * peak_seconds_per_token(model, step, gpu)
    if mfu is not None:
        compute = tokens * flops_per_token(model, step.sequence_length) / (gpu.bf16_flops * mfu)
    inside = gpu.node_bytes_per_second if step.shard_ranks <= node_gpus else gpu.network_bytes_per_second
    across = gpu.node_bytes_per_second if step.shard_ranks * replicas <= node_gpus else gpu.network_bytes_per_second
    traffic = step_traffic(model, step, replicas)
    block = (step.compute_bytes + FP32) * _block_parameters(model) * (step.shard_ranks - 1) / step.shard_ranks
    return StepTime(
        compute=compute,
        communicate=(traffic.gather + traffic.reduce) / inside + traffic.replicate / across,
        ends=block / inside,
    )


def _block_parameters(model: Model) -> float:
    counts = parameter_counts(model)
    return (counts["attention"] + counts["mlp"]) / model.num_layers
