"""AdamW (arXiv:1711.05101) over the fp32 shards that FSDP2 keeps: those are the master weights.

The number of updates is not a memory of the optimizer: the caller says it before each one. So a batch that was
skipped leaves no trace, and a checkpoint needs no more than its step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from llm360_trainer.model import layer_of


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW's constants; the defaults are Amber's."""

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    """Decoupled: each update first takes off learning rate · weight decay of a parameter."""
    weight_decay_on: Literal["all", "matrices"] = "all"
    """Everything (Amber), or all but norms and biases."""
    matrix_learning_rate_multiplier: float = 1.0
    """Factor on the learning rate of the layers' matrices, not of the embedding or head (muP; CrystalCoder: 1/16)."""


def build_optimizer(model: nn.Module, settings: OptimizerSettings) -> torch.optim.AdamW:
    """AdamW whose moments exist from the start, as zeros sharded like their parameters.

    A moment is `optimizer.state[parameter]["exp_avg"]` or `["exp_avg_sq"]`, fp32; fill it in place to restore it.

    Args:
        model: Parameters must lie on their final device.
        settings: AdamW's constants.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2
        decay = settings.weight_decay if is_matrix or settings.weight_decay_on == "all" else 0.0
        multiplier = settings.matrix_learning_rate_multiplier if is_matrix and layer_of(name) is not None else 1.0
        groups.setdefault((decay, multiplier), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay, "multiplier": multiplier}
            for (decay, multiplier), parameters in groups.items()
        ],
        lr=0.0,
        betas=(settings.beta1, settings.beta2),
        eps=settings.epsilon,
        fused=True,
    )
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            "exp_avg": torch.zeros_like(parameter, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
        }
    return optimizer


def set_finished_steps(optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Tell the bias correction how many steps of training lie behind."""
    counters = [state["step"] for state in optimizer.state.values()]
    torch._foreach_zero_(counters)  # two launches for all, where a GPU would wait for one each
    torch._foreach_add_(counters, steps)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group the rate, times its own multiplier."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["multiplier"]
