"""The peer of the training step: Hugging Face's `LlamaForCausalLM` as its users train it.

bf16 autocast over fp32 weights, SDPA, fused AdamW, gradients added up over micro batches and clipped, `torch.compile`
of the whole model where ours compiles its blocks.
"""

from __future__ import annotations

import gc
import importlib.metadata
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from llm360_trainer.model import DecoderConfig, hf_config, is_out_of_memory


def measure_peer(
    config: DecoderConfig,
    *,
    batch_rows: int,
    sequence_length: int,
    micro_batch: int,
    bf16: bool,
    compiled: bool,
    device: torch.device,
    steps: int,
    warmup: int,
) -> dict[str, Any]:
    """The peer's step on the same work: of our micro batch and those below it, recomputed or not, the first that fits.

    Raises:
        SystemExit: transformers is missing, the decoder is not Llama-shaped, or nothing fits.
    """
    model_of = _model_of(config, device)
    generator = torch.Generator(device).manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (batch_rows, sequence_length + 1), generator=generator, device=device)
    for checkpointing, rows in itertools.product((False, True), range(micro_batch, 0, -1)):
        if batch_rows % rows:
            continue
        try:
            seconds = _seconds(_step(model_of(checkpointing), ids, rows, bf16, compiled), device, warmup + steps)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            seconds = []
        gc.collect()
        torch._dynamo.reset()
        if device.type == "cuda":
            memory = torch.cuda.max_memory_allocated()
            torch.cuda.empty_cache()
        if seconds:
            del seconds[:warmup]
            return {
                "transformers": importlib.metadata.version("transformers"),
                "micro_batch": rows,
                "checkpointing": checkpointing,
                "seconds": statistics.median(seconds),
                "all_seconds": seconds,
                "memory_bytes": memory if device.type == "cuda" else None,
            }
    raise SystemExit("step.py: error: --peer: LlamaForCausalLM does not fit this device; leave it out")


def _model_of(config: DecoderConfig, device: torch.device) -> Callable[[bool], Any]:
    """Makes the peer's model in fp32; True: with its blocks recomputed in backward."""
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

    def make(checkpointing: bool) -> Any:
        with torch.device(device):
            model = transformers.LlamaForCausalLM(llama)
        model.train()
        model.config.use_cache = False
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return model

    return make


def _step(model: Any, ids: torch.Tensor, micro_batch: int, bf16: bool, compiled: bool) -> Callable[[], None]:
    """One optimizer step of the peer."""
    call = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step() -> None:
        for rows in ids.split(micro_batch):
            with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=bf16):
                logits = call(input_ids=rows[:, :-1]).logits
            total = nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="sum")
            (total / ids[:, 1:].numel()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _seconds(step: Callable[[], None], device: torch.device, steps: int) -> list[float]:
    """Of each step."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds
