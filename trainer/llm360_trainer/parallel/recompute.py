"""Which results of a block are kept for backward, by what each costs to make again.

One block runs on the device, operation by operation, and every operation is timed and its result weighed. The results
that take longest per byte are kept, as many as a budget holds; the rest is made again. Neither changes a bit of what is
computed, so ranks may choose differently.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode_temporarily
from torch.utils.checkpoint import CheckpointPolicy

Key = tuple[Any, tuple[tuple[int, ...], ...]]
"""An operation and the shapes of its floating point tensors."""

_REPEATS = 5

_PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


@dataclass(frozen=True)
class OperationCost:
    """What one kind of operation costs in a block.

    Attributes:
        key: The operation and its operands' shapes.
        seconds: Of one run.
        size: Bytes of one result.
        count: Runs in a block.
    """

    key: Key
    seconds: float
    size: int
    count: int

    @property
    def seconds_per_byte(self) -> float:
        """What keeping a byte saves."""
        return self.seconds / self.size


def key_of(operation: Any, arguments: Iterable[Any]) -> Key:
    """The key of an operation by its arguments; where documents begin, an integer each, changes with every batch."""
    return operation, tuple(tuple(a.shape) for a in arguments if isinstance(a, Tensor) and a.is_floating_point())


def last_product(block: nn.Module) -> tuple[int, int] | None:
    """Sizes of a block's last matrix, whose product nothing needs in backward; None where another has them too."""
    sizes = [(linear.in_features, linear.out_features) for linear in block.modules() if isinstance(linear, nn.Linear)]
    return sizes[-1] if sizes.count(sizes[-1]) == 1 else None


def is_product(key: Key, sizes: tuple[int, int] | None) -> bool:
    """Whether an operation multiplies by a matrix of these sizes."""
    operation, shapes = key
    return operation in _PRODUCTS and shapes[-1] == sizes


def as_one(key: Key, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a function count as one operation where operations are measured; compiled code does not run among them."""

    def run(*arguments: Any) -> Tensor:
        with _pop_mode_temporarily() as costs:
            assert isinstance(costs, _Costs)
            result = function(*arguments)
            costs.add(key, [result], lambda: function(*arguments))
        return result

    return run


def measure_operations(run: Callable[[], Any], device: torch.device) -> list[OperationCost]:
    """The cost of every operation of a forward whose result could be kept: new memory that nothing changes in place.

    Args:
        run: The forward of a block.
        device: Where it computes.
    """
    with _Costs(device) as costs, torch.no_grad():
        run()
    return [
        OperationCost(key, median(times), size, len(times))
        for key, (times, size) in costs.found.items()
        if key not in costs.changed
    ]


def choose_kept(costs: Iterable[OperationCost], budget: float) -> frozenset[Key]:
    """The operations whose results are kept: those dearest per byte first, each while it fits into what is left.

    Args:
        costs: Of one block.
        budget: Bytes that the block may keep.
    """
    kept, left = set(), budget
    for cost in sorted(costs, key=lambda cost: cost.seconds_per_byte, reverse=True):
        if cost.size * cost.count <= left:
            kept.add(cost.key)
            left -= cost.size * cost.count
    return frozenset(kept)


def keep(kept: frozenset[Key]) -> Callable[..., CheckpointPolicy]:
    """The policy of `create_selective_checkpoint_contexts` that keeps these."""

    def policy(_context: Any, operation: Any, *arguments: Any, **_options: Any) -> CheckpointPolicy:
        is_kept = key_of(operation, arguments) in kept
        return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE

    return policy


class _Costs(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Times each operation that leaves new memory, and notes whose result is changed later."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.found: dict[Key, tuple[list[float], int]] = {}
        self.changed: set[Key] = set()
        self._maker: dict[int, Key] = {}
        self._results: list[Any] = []  # alive, so that no address is given twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        result = func(*args, **options)
        given = {_address(a) for a in args if isinstance(a, Tensor)}
        if func._schema.is_mutable:
            self.changed |= {self._maker[address] for address in given if address in self._maker}
            return result
        made = [x for x in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(x, Tensor)]
        fresh = [x for x in made if _address(x) not in given]
        if sum(x.untyped_storage().nbytes() for x in fresh):
            self.add(key_of(func, args), fresh, lambda: func(*args, **options))
        return result

    def add(self, key: Key, made: list[Tensor], again: Callable[[], Any]) -> None:
        """Note what an operation made, and time it.

        Args:
            key: Of the operation.
            made: Results in new memory.
            again: Runs it.
        """
        sizes = {_address(x): x.untyped_storage().nbytes() for x in made}
        self._results += made
        self._maker |= dict.fromkeys(sizes, key)
        times, _ = self.found.setdefault(key, ([], sum(sizes.values())))
        times.append(median(self._seconds(again) for _ in range(_REPEATS)))

    def _seconds(self, run: Callable[[], Any]) -> float:
        self._wait()
        started = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
