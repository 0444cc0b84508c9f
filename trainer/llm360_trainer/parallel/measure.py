"""What is chosen by measurement, once, on the device that trains: the kernel of attention, the results that are kept.

Every rank measures; the slowest rank's time counts for all, so that all choose the same kernel.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor

from llm360_trainer.model import BACKENDS, Backend, DecoderConfig, unavailable
from llm360_trainer.model.attention import attend, attention_mask, kernel_operations
from llm360_trainer.model.decoder import Block, rotation_table
from llm360_trainer.parallel.parallelize import ParallelSettings
from llm360_trainer.parallel.recompute import (
    Key,
    as_one,
    choose_kept,
    is_product,
    last_product,
    measure_operations,
)

_RUNS = 5


def choose_attention(
    config: DecoderConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device, *, in_documents: bool
) -> Backend:
    """The fastest kernel for a micro batch, forward and backward; sdpa where kernels must not depend on timing.

    Args:
        config: The architecture.
        rows: Sequences of a micro batch.
        length: Tokens of a sequence.
        dtype: Of queries, keys and values.
        device: This process's; a CPU has one kernel.
        in_documents: Whether positions see their own document only.
    """
    usable = [
        backend
        for backend in BACKENDS
        if unavailable(backend, device, dtype) is None and (in_documents or backend != "varlen")  # else it is sdpa
    ]
    if len(usable) == 1 or torch.are_deterministic_algorithms_enabled():
        return "sdpa"
    seconds = {
        backend: _attention_seconds(config, backend, rows, length, dtype, device, in_documents) for backend in usable
    }
    return fastest(_slowest_rank(seconds, device))


def fastest(seconds: Mapping[Backend, float]) -> Backend:
    """The key of the least number; of equals the first."""
    return min(seconds, key=lambda backend: seconds[backend])


def with_measured_recomputation(
    settings: ParallelSettings,
    config: DecoderConfig,
    rows: int,
    length: int,
    budget: float,
    device: torch.device,
    *,
    in_documents: bool = False,
) -> ParallelSettings:
    """The settings with the results that a block keeps.

    Args:
        settings: Activation checkpointing is `measured`.
        config: The architecture.
        rows: Sequences of a micro batch.
        length: Tokens of a sequence.
        budget: Bytes that all blocks together may keep for backward, their inputs included.
        device: This process's.
        in_documents: Whether positions see their own document only, so that the kernel is the run's.
    """
    with torch.device(device):
        block = Block(config).to(settings.param_dtype)
        x = torch.randn(rows, length, config.hidden_size, dtype=settings.param_dtype)
    block.self_attn.backend = settings.attention
    if settings.attention == "flex":
        as_operation = as_one(_flex_key(config, rows, length), block.self_attn.attend)
        block.self_attn.attend = as_operation  # type: ignore[method-assign]
    rotation = rotation_table(config, length, device)
    documents = _example_documents(rows, length, device) if in_documents else None
    mask = attention_mask(settings.attention, documents, length, device)
    last = last_product(block)
    costs = [c for c in measure_operations(lambda: block(x, rotation, mask), device) if not is_product(c.key, last)]
    return replace(settings, kept=choose_kept(costs, budget / config.num_layers - x.nbytes))


def _flex_key(config: DecoderConfig, rows: int, length: int) -> Key:
    """What recomputation sees of FlexAttention, where it is compiled with its block."""
    (operation,) = kernel_operations("flex")
    heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    return operation, tuple((rows, count, length, config.head_dim) for count in heads)


def _example_documents(rows: int, length: int, device: torch.device) -> Tensor:
    """Four documents of a row."""
    return torch.arange(length, device=device).div(length / 4, rounding_mode="floor").int().expand(rows, length)


def _attention_seconds(
    config: DecoderConfig,
    backend: Backend,
    rows: int,
    length: int,
    dtype: torch.dtype,
    device: torch.device,
    in_documents: bool,
) -> float:
    def heads(count: int) -> Tensor:
        return torch.randn(rows, length, count, config.head_dim, dtype=dtype, device=device, requires_grad=True)

    q, k, v = heads(config.num_heads), heads(config.num_kv_heads), heads(config.num_kv_heads)
    documents = _example_documents(rows, length, device) if in_documents else None
    mask = attention_mask(backend, documents, length, device)

    def run() -> None:
        out = attend(q, k, v, mask, config.head_dim**-0.5, backend)
        torch.autograd.backward(out, torch.ones_like(out))
        q.grad = k.grad = v.grad = None

    try:
        return _seconds(run, device)
    except RuntimeError:
        return float("inf")  # a kernel may refuse a shape, and is out of the race then


def _seconds(run: Callable[[], None], device: torch.device) -> float:
    run()
    run()
    _wait(device)
    started = time.perf_counter()
    for _ in range(_RUNS):
        run()
    _wait(device)
    return (time.perf_counter() - started) / _RUNS


def _slowest_rank(seconds: dict[Backend, float], device: torch.device) -> dict[Backend, float]:
    times = torch.tensor(list(seconds.values()), dtype=torch.float64, device=device)
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return dict(zip(seconds, times.tolist(), strict=True))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
