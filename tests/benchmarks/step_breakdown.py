"""Where the time of one step goes, by what the operations are for.

A step runs under torch's profiler. Every operation that took time is sorted by its own name and the names of those
that it ran inside; on a GPU the time is that of the kernels that it started, on a CPU its own.

    attention          scaled dot products and their backward
    linear layers      matrix products outside the loss
    loss               output matrix, softmax and their gradient
    optimizer          gradient norm, clipping, AdamW
    sharding           FSDP's copies, gathers and reductions
    norm and rotary    the rest: norms, rotation, gates, residuals, embedding
    gaps               time in which the device ran nothing
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

PARTS = ("attention", "linear layers", "norm and rotary", "loss", "optimizer", "sharding", "gaps")

_MARKS = (
    # The first part of which a mark is in one of the names wins.
    ("optimizer", ("Optimizer.step", "llm360::update", "llm360::reduce", "clip_grad")),
    ("loss", ("WeightedCrossEntropy", "CrossEntropy", "cross_entropy", "nll_loss", "log_softmax", "LogSoftmax")),
    ("sharding", ("FSDP::", "fsdp::", "c10d::", "nccl:", "gloo:")),
    ("attention", ("attention", "Attention", "flash", "fmha", "flex")),
    ("linear layers", ("aten::mm", "aten::addmm", "aten::linear", "aten::matmul", "aten::_scaled_mm", "gemm", "nvjet")),
)


def part_of(names: Iterable[str]) -> str:
    """The part that an operation belongs to.

    Args:
        names: Its own name and those of the operations around it.
    """
    all_names = tuple(names)
    for part, marks in _MARKS:
        if any(mark in name for name in all_names for mark in marks):
            return part
    return "norm and rotary"


def busy_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """Seconds that at least one of the intervals (begin, end) covers."""
    total, covered_to = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, covered_to))
        covered_to = max(covered_to, end)
    return total


def breakdown(step: Callable[[], None], device: torch.device) -> tuple[float, dict[str, float]]:
    """Seconds of one step, and by part; kernels that ran at the same time count twice, so the sum may exceed the step.

    The profiler slows the step down: its seconds are not those of a step without.

    Args:
        step: Runs one step and waits for its end.
        device: Where it computes.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    step()
    with profile(activities=activities) as profiler:
        started = time.perf_counter()
        step()
        seconds = time.perf_counter() - started
    parts = dict.fromkeys(PARTS, 0.0)
    events = profiler.events()
    assert events is not None
    for names, took in _kernel_times(events) if on_gpu else _operation_times(events):
        parts[part_of(names)] += took
    busy = _busy_gpu(events) if on_gpu else sum(parts.values())
    parts["gaps"] = max(0.0, seconds - busy)
    return seconds, parts


def _operation_times(events: Any) -> Iterator[tuple[list[str], float]]:
    """Names and own seconds of every operation on the CPU."""
    for event in events:
        if event.device_type == DeviceType.CPU and event.self_cpu_time_total > 0:
            yield _names(event), event.self_cpu_time_total / 1e6


def _kernel_times(events: Any) -> Iterator[tuple[list[str], float]]:
    """Names and kernel seconds of every operation that started kernels, and of the kernels that none claims."""
    claimed: dict[str, float] = {}
    for event in events:
        if event.device_type == DeviceType.CPU:
            for kernel in event.kernels:
                claimed[kernel.name] = claimed.get(kernel.name, 0.0) + kernel.duration
                yield [kernel.name, *_names(event)], kernel.duration / 1e6
    for event in _gpu_events(events):
        rest = event.time_range.elapsed_us()
        known = min(rest, claimed.get(event.name, 0.0))
        claimed[event.name] = claimed.get(event.name, 0.0) - known
        if rest > known:
            yield [event.name], (rest - known) / 1e6


def _gpu_events(events: Any) -> Iterator[Any]:
    """Kernels and copies; the spans of annotations on the device's timeline are none."""
    annotations = {event.name for event in events if event.is_user_annotation}
    for event in events:
        if event.device_type == DeviceType.CUDA and event.name not in annotations:
            yield event


def _busy_gpu(events: Any) -> float:
    return busy_seconds([(e.time_range.start / 1e6, e.time_range.end / 1e6) for e in _gpu_events(events)])


def _names(event: Any) -> list[str]:
    names = []
    while event is not None:
        names.append(event.name)
        event = event.cpu_parent
    return names
