"""`spec.parallelism`: how a step is spread over workers. It may change at any time: the rows stay the same."""

from __future__ import annotations

from typing import Literal

from llm360.spec.base import Quantity, Section, optional, setting


class Parallelism(Section):
    """Sharding, micro batches and memory against time."""

    shard: Literal["full", "hybrid"] = setting(
        "full: parameters are sharded over all workers (FSDP); hybrid: over groups of them, and replicated across"
        " (HSDP)."
    )
    replicas: int | None = optional(
        "Number of replicas with shard hybrid; it divides the number of ranks.", unit="replicas", ge=2, le=100_000
    )
    micro_batch: int = setting(
        "Most sequences that a rank takes through the model at once; its part of the batch is cut into as few micro"
        " steps as that allows.",
        unit="sequences",
        ge=1,
        le=2**20,
    )
    activation_checkpointing: Literal["none", "selective", "full", "measured"] = setting(
        "none keeps all activations, full keeps each block's input and computes the rest again, selective keeps the"
        " results of matrix products and attention, measured those that take longest to make again per byte, as many as"
        " activationMemory holds."
    )
    activation_memory: Quantity | None = optional(
        "Memory of a rank for the activations that all blocks keep, for example 20Gi; measured needs it, the others"
        " have none."
    )
    attention: Literal["auto", "sdpa", "cudnn", "flash", "varlen", "flex"] = setting(
        "Kernel of attention: sdpa is PyTorch's own choice, cudnn is cuDNN's, flash is flash-attn's, varlen is"
        " PyTorch's for packed documents, flex is"
        " FlexAttention; auto takes the fastest, measured once when the ranks start, and sdpa on CPUs or with"
        " training.deterministic."
    )
    compile: bool = setting("Whether each block is compiled with torch.compile.")
    reshard_after_forward: bool = setting(
        "Whether a block's gathered weights are freed after forward and gathered again in backward: less memory, more"
        " traffic. Where they are not, they are gathered once a step, whatever the number of micro steps."
    )
    prefetch: int = setting(
        "Blocks whose weights are gathered ahead of the one at work; 0 leaves it to FSDP2, which gathers one ahead in"
        " backward.",
        unit="blocks",
        ge=0,
        le=64,
    )
    reduce_gradients: Literal["last", "each"] = setting(
        "Micro step in which gradients are summed over ranks: last does so once, but each rank holds a whole fp32"
        " gradient until then; each sums in every one, and ranks hold their shards only."
    )
