"""The peer of the training step: Hugging Face's `LlamaForCausalLM` as its users train it.

bf16 autocast over fp32 weights, SDPA, fused AdamW, gradients added up over micro batches and clipped, `torch.compile`
of the whole model where ours compiles its blocks.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from torch import nn

from llm360_trainer.model import DecoderConfig, hf_config


def measure_peer(
    config: DecoderConfig,
    *,
    batch_rows: int,
    sequence_length: int,
    micro_batch: int,
    bf16: bool,
    compiled: bool,
    checkpointing: bool,
    device: torch.device,
    steps: int,
    warmup: int,
) -> dict[str, Any]:
    """Median seconds of the peer's step on the same work.

    Raises:
        SystemExit: transformers is missing, or the decoder is not Llama-shaped.
    """
    try:
        import transformers
    except ImportError:
        raise SystemExit("step.py: error: --peer needs transformers; install it, or leave --peer out") from None
    values = hf_config(config)
    if values["model_type"] != "llama":
        raise SystemExit(
            "step.py: error: --peer: LlamaForCausalLM does not compute this preset's decoder; leave it out"
        )
    llama = transformers.LlamaConfig(**values, attn_implementation="sdpa")
    with torch.device(device):
        model = transformers.LlamaForCausalLM(llama)
    model.train()
    model.config.use_cache = False
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    call = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (batch_rows, sequence_length + 1), generator=generator, device=device)

    def step() -> None:
        for rows in ids.split(micro_batch):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
                logits = call(input_ids=rows[:, :-1]).logits
            total = nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
            (total / ids[:, 1:].numel()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(warmup + steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return {
        "transformers": transformers.__version__,
        "seconds": statistics.median(seconds[warmup:]),
        "all_seconds": seconds[warmup:],
        "memory_bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else None,
    }
