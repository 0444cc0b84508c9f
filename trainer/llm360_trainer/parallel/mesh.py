"""The grid of processes: one axis that shards, and for HSDP a second that replicates."""

from __future__ import annotations

from typing import Literal

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def make_mesh(
    world: int,
    device_type: Literal["cpu", "cuda"] = "cpu",
    shard: Literal["full", "hybrid"] = "full",
    replicas: int | None = None,
) -> DeviceMesh:
    """Lay the processes of the default group out for `fully_shard`.

    Args:
        world: Number of processes.
        device_type: Of their devices; the backend is gloo or NCCL by it.
        shard: `full` shards over all processes; `hybrid` over groups of consecutive ones (a node's, say), each
            of which holds the whole model.
        replicas: Number of those groups; hybrid only.

    Returns:
        A mesh with the axis `shard`, or `replicate` and `shard`.

    Raises:
        ValueError: `replicas` missing for hybrid, given for full, or not a divisor of `world`.
    """
    if shard == "full":
        if replicas is not None:
            raise ValueError(
                f"replicas is {replicas}, but full sharding keeps one; choose hybrid or leave replicas out"
            )
        return init_device_mesh(device_type, (world,), mesh_dim_names=("shard",))
    if replicas is None or replicas < 1 or world % replicas:
        raise ValueError(f"hybrid sharding needs a number of replicas that divides {world} processes, found {replicas}")
    return init_device_mesh(device_type, (replicas, world // replicas), mesh_dim_names=("replicate", "shard"))
