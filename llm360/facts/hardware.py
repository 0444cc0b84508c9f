"""GPUs and links as their makers' data sheets state them: capacities and peaks, never what a program reaches."""

from __future__ import annotations

from dataclasses import dataclass

from llm360.errors import InputError, nearest

GIB = 2**30


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU.

    Attributes:
        name: As `--gpu` takes it.
        memory_bytes: What the data sheet calls its memory, decimal.
        bf16_flops: Dense bf16 peak of the matrix units, FLOP/s.
        fp8_flops: Their dense float8 peak (half of what the data sheet states with sparsity); None: they have none.
        node_bytes_per_second: To the other GPUs of its node (NVLink), in one direction.
        network_bytes_per_second: To other nodes, in one direction, where a node has one adapter per GPU.
        source: Where the numbers stand.
    """

    name: str
    memory_bytes: int
    bf16_flops: float
    fp8_flops: float | None
    node_bytes_per_second: float
    network_bytes_per_second: float
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu(
            "a100-40gb",
            40 * 10**9,
            312e12,
            None,
            300e9,
            25e9,
            "NVIDIA A100 datasheet; DGX A100 datasheet: 8 × 200 Gb/s",
        ),
        Gpu(
            "a100-80gb",
            80 * 10**9,
            312e12,
            None,
            300e9,
            25e9,
            "NVIDIA A100 datasheet; DGX A100 datasheet: 8 × 200 Gb/s",
        ),
        Gpu(
            "h100",
            80 * 10**9,
            989e12,
            1979e12,
            450e9,
            50e9,
            "NVIDIA H100 datasheet (SXM); DGX H100 datasheet: 8 × 400 Gb/s",
        ),
        Gpu(
            "h200",
            141 * 10**9,
            989e12,
            1979e12,
            450e9,
            50e9,
            "NVIDIA H200 datasheet (SXM); DGX H200 datasheet: 8 × 400 Gb/s",
        ),
    )
}


def gpu_named(name: str) -> Gpu:
    """The GPU of a name.

    Raises:
        InputError: it is not in the table.
    """
    if name not in GPUS:
        raise InputError(f"--gpu {name}: not known{nearest(name, list(GPUS))}; known are {', '.join(GPUS)}")
    return GPUS[name]
