"""The grid of processes: one axis that shards, and for HSDP a second that replicates."""

from __future__ import annotations

from typing import Literal

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def make_mesh(
    world: int,
    device_type: Literal["cpu", "cuda"] = "cpu",
    shard: Literal["full", "hybrid"] = "full",
    shard_size: int | None = None,
) -> DeviceMesh:
    """Lay the processes of the default group out for `fully_shard`.

    Args:
        world: Number of processes.
        device_type: Of their devices; the backend is gloo or NCCL by it.
        shard: `full` shards over all; `hybrid` shards inside groups of `shard_size` (a node, say), which replicate
            each other.
        shard_size: Processes per sharding group; hybrid only.

    Returns:
        A mesh with the axis `shard`, or `replicate` and `shard`.

    Raises:
        ValueError: `shard_size` missing for hybrid, given for full, or not a divisor of `world`.
    """
    if shard == "full":
        if shard_size is not None:
            raise ValueError(f"shard_size is {shard_size}, but full sharding always takes all processes; choose hybrid")
        return init_device_mesh(device_type, (world,), mesh_dim_names=("shard",))
    if shard_size is None or shard_size < 1 or world % shard_size:
        raise ValueError(f"hybrid sharding needs a shard_size that divides the {world} processes, found {shard_size}")
    return init_device_mesh(device_type, (world // shard_size, shard_size), mesh_dim_names=("replicate", "shard"))
