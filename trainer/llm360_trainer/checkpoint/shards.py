"""Where the rows of a parameter live, and how they come to the rank that writes them.

FSDP2 shards dim 0 as `torch.chunk` does: of n rows and S ranks each holds ceil(n / S), the last ones fewer or none.
With HSDP every replica holds all rows, and a writer takes them from its own replica, which keeps the traffic
inside a node. Gathering is one uneven all-to-all per round and kind: in a round each rank owns one group, and
gets its rows from all others. So every rank sends and receives at once, and none holds more than the group it owns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, Replicate, Shard

from llm360.errors import InputError
from llm360_trainer.checkpoint.layout import STATE_KINDS, Group, Rename


class Rows(NamedTuple):
    """Rows `[start, stop)` of a parameter's dim 0, and the rank that holds them."""

    rank: int
    start: int
    stop: int


def world() -> tuple[int, int]:
    """This process's rank and the number of ranks; `(0, 1)` without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def parameters_by_name(model: nn.Module, rename: Rename) -> dict[str, nn.Parameter]:
    """The model's sharded parameters by Hugging Face name; tied ones once.

    FSDP modules whose parameters are still whole after a forward pass without a backward give them back first.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
    return {rename(name): parameter for name, parameter in model.named_parameters()}


def num_rows(tensor: torch.Tensor) -> int:
    """The size of dim 0; a scalar has one row."""
    return tensor.shape[0] if tensor.dim() else 1


def local_rows(tensor: torch.Tensor) -> torch.Tensor:
    """The memory of the rows that this rank holds: writing to it writes to the parameter."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def state_tensor(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, kind: str) -> torch.Tensor:
    """The master weight (the parameter itself) or one of AdamW's moments, sharded as the parameter is."""
    tensor: torch.Tensor = parameter if kind == "master" else optimizer.state[parameter][kind]
    return tensor


def holders(name: str, tensor: torch.Tensor, reader: int) -> tuple[Rows, ...]:
    """Which ranks give the rank `reader` the rows of a tensor, in order, empty ones included.

    Raises:
        InputError: the tensor is sharded in another way than over dim 0, with or without replicas.
    """
    rows = num_rows(tensor)
    if not isinstance(tensor, DTensor):
        return (Rows(reader, 0, rows),)
    sharded = [axis for axis, placement in enumerate(tensor.placements) if placement == Shard(0)]
    replicated = [axis for axis, placement in enumerate(tensor.placements) if placement == Replicate()]
    if len(sharded) > 1 or len(sharded) + len(replicated) < len(tensor.placements):
        raise InputError(
            f"'{name}' is placed as {tensor.placements} on its mesh; checkpoints know parameters that are sharded"
            " over dim 0 of one mesh axis and replicated over the others"
        )
    ranks = tensor.device_mesh.mesh
    # One line per replica; a tensor that is replicated everywhere is a line per rank.
    by_replica = ranks.movedim(sharded[0], -1).reshape(-1, ranks.shape[sharded[0]]) if sharded else ranks.reshape(-1, 1)
    lines = by_replica.tolist()
    line = next((line for line in lines if reader in line), lines[0])
    size = -(-rows // len(line))
    return tuple(Rows(rank, min(i * size, rows), min((i + 1) * size, rows)) for i, rank in enumerate(line))


def gather_groups(
    groups: Sequence[Group],
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    allocate: Callable[[str, str, nn.Parameter], torch.Tensor],
) -> None:
    """Bring every group to its owner's memory; a collective of all ranks.

    Args:
        groups: The plan; group g is owned by rank `g mod W`.
        parameters: All parameters by name.
        optimizer: AdamW whose moments exist, as `build_optimizer` makes it.
        allocate: Gives the fp32 CPU tensor for a parameter's name and kind; called on the owner alone.
    """
    rank, world_size = world()
    for first in range(0, len(groups), world_size):
        turn = groups[first : first + world_size]
        for kind in STATE_KINDS:
            tensors = {name: parameters[name] for group in turn for name in group.names}
            local = {
                name: local_rows(state_tensor(parameter, optimizer, kind)).float().reshape(-1)
                for name, parameter in tensors.items()
            }
            for name, rows, values in _exchange(turn, tensors, local, rank, world_size):
                whole = allocate(name, kind, tensors[name]).view(num_rows(tensors[name]), -1)
                whole[rows.start : rows.stop].copy_(values.view(rows.stop - rows.start, -1), non_blocking=True)
    if any(parameter.is_cuda for parameter in parameters.values()):
        torch.cuda.current_stream().synchronize()


def _exchange(
    turn: Sequence[Group],
    tensors: Mapping[str, torch.Tensor],
    local: Mapping[str, torch.Tensor],
    rank: int,
    world_size: int,
) -> list[tuple[str, Rows, torch.Tensor]]:
    """Send this rank's rows to the owners of the turn's groups; return the pieces of the group it owns itself."""
    if world_size == 1:
        return [(name, Rows(0, 0, num_rows(tensors[name])), local[name]) for name in local]
    outgoing: list[torch.Tensor] = []
    sent = [0] * world_size
    arriving: list[tuple[str, Rows]] = []
    for group in turn:
        for name in group.names:
            for rows in holders(name, tensors[name], group.owner):
                if rows.rank == rank:
                    outgoing.append(local[name])
                    sent[group.owner] += local[name].numel()
                if group.owner == rank and rows.stop > rows.start:
                    arriving.append((name, rows))
    arriving.sort(key=lambda piece: piece[1].rank)  # stable: a sender's pieces stay in the order of names
    sizes = [(rows.stop - rows.start) * (tensors[name].numel() // num_rows(tensors[name])) for name, rows in arriving]
    received = [0] * world_size
    for (_, rows), size in zip(arriving, sizes, strict=True):
        received[rows.rank] += size
    source = torch.cat(outgoing) if outgoing else next(iter(local.values())).new_empty(0)
    target = source.new_empty(sum(received))
    dist.all_to_all_single(target, source, received, sent)
    return [(name, rows, values) for (name, rows), values in zip(arriving, torch.split(target, sizes), strict=True)]
