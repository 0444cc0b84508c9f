"""Matrix products of the blocks in float8 (torchao), forward and backward; weights and sums stay as they are.

tensorwise scales each operand by its largest value, rowwise each row, which is more exact and slower. A product takes
part where both its sizes are multiples of 16, as the hardware demands; embedding, head and attention do not.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import replace
from typing import Literal

import torch
from torch import nn

Recipe = Literal["tensorwise", "rowwise"]

MULTIPLE = 16
"""Sizes of a float8 product are multiples of it (`torch._scaled_mm`)."""

_CAPABILITY: dict[str, tuple[int, int]] = {"tensorwise": (8, 9), "rowwise": (9, 0)}
"""Least compute capability: Ada has float8 units, scales by row come with Hopper."""


def fp8_unavailable(recipe: Recipe, device: torch.device) -> str | None:
    """Why a recipe cannot be used on a device, or None where it can."""
    if importlib.util.find_spec("torchao") is None:
        return "the package torchao is not installed; in a checkout of llm360: pip install '.[cuda]'"
    if device.type != "cuda":
        return f"it needs a CUDA device, found {device.type}"
    found, needed = torch.cuda.get_device_capability(device), _CAPABILITY[recipe]
    if found < needed:
        name = torch.cuda.get_device_name(device)
        return f"it needs compute capability {needed[0]}.{needed[1]}, {name} has {found[0]}.{found[1]}"
    return None


def use_fp8(block: nn.Module, recipe: Recipe, *, emulate: bool = False) -> None:
    """Let a block's matrices multiply in float8; parameters keep their names and values.

    Args:
        block: A decoder block, before it is sharded.
        recipe: How operands are scaled.
        emulate: Round to float8 but multiply in the compute dtype: the same numbers on a device without such units.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its sources have strings that Python warns of where it compiles them first
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    config = replace(Float8LinearConfig.from_recipe_name(recipe), emulate=emulate)
    convert_to_float8_training(block, config=config, module_filter_fn=_fits)


def _fits(module: nn.Module, _name: str) -> bool:
    return isinstance(module, nn.Linear) and module.in_features % MULTIPLE == 0 and module.out_features % MULTIPLE == 0
