"""The same bits from the same input, on the same kind of device with as many processes and threads."""

from __future__ import annotations

import os

import torch
from torch._inductor import config as inductor
from torch.utils import deterministic


def set_deterministic(num_threads: int | None = None) -> None:
    """Make torch refuse operations whose result depends on timing; call it before the first CUDA operation.

    Args:
        num_threads: Threads within an operation on the CPU, which decide the order of its sums; None leaves them.
    """
    # cuBLAS reads its workspace's size when its handle is made; without a fixed one its sums vary.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Fresh memory is always written before it is read here; filling it with NaN first only costs time.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    # What the compiler would choose by timing (padding of matrices, tiles) it chooses by rules.
    inductor.deterministic = True
    if num_threads is not None:
        torch.set_num_threads(num_threads)
