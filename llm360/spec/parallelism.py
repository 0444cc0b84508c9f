"""`spec.parallelism`: how a step is spread over workers. It may change at any time: the rows stay the same."""

from __future__ import annotations

from typing import Literal

from llm360.spec.base import Section, optional, setting


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
    activation_checkpointing: Literal["none", "selective", "full"] = setting(
        "none keeps all activations, full keeps each block's input and computes the rest again, selective keeps the"
        " results of matrix products and attention."
    )
    compile: bool = setting("Whether each block is compiled with torch.compile.")
