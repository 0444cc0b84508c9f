"""How long a step takes at least: its arithmetic against a GPU's peak, its communication against the links.

    arithmetic     tokens of a rank · (6P + 12·L·Q·T) / (peak · MFU)
    gather         c·P·(W − 1)/W per micro step, twice where weights are freed after forward
    reduce         4·P·(W − 1)/W per step, or per micro step with reduceGradients: each
    replicate      2 · 4·P/W · (R − 1)/R per step, the all-reduce over R replicas (HSDP)

Bytes are what a rank sends (and receives) in ring algorithms, over the slowest link of the ring: NVLink where the
ranks of a ring are one node's, the network otherwise. FSDP gathers a block's weights while the one before it computes
and reduces its gradient while the next does, so what is longer counts, and of the other only the ends show: the
first block's gathering and the last one's reduction.

Letters: P parameters, L layers, Q width of attention, T tokens of a sequence, c bytes of the compute dtype, W ranks
that share one copy of the model, R replicas.
"""

from __future__ import annotations

from dataclasses import dataclass

from llm360.facts.hardware import Gpu
from llm360.facts.memory import FP32, StepShape
from llm360.facts.parameters import num_parameters, parameter_counts
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


def step_traffic(model: Model, step: StepShape, replicas: int) -> Traffic:
    """What a rank sends in a step."""
    parameters, ranks = num_parameters(model), step.shard_ranks
    share = (ranks - 1) / ranks
    reductions = step.micro_steps if step.reduce_each else 1
    gathers = step.micro_steps * (2 if step.reshard else 1)
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
        mfu: Share (0–1) of the peak that the model's own arithmetic reaches, as measured.
    """
    tokens = step.micro_steps * step.tokens
    flops = flops_per_token(model, step.sequence_length)
    if mfu is None:
        compute = tokens * (flops + recomputed_flops_per_token(model, step)) / gpu.bf16_flops
    else:
        compute = tokens * flops / (gpu.bf16_flops * mfu)
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
