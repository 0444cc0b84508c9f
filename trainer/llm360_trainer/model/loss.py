"""Cross entropy straight from the hidden states, a chunk of tokens at a time.

The logits of a whole micro batch in fp32 are the largest tensor of a training step: 2 GiB for 8 × 2,048 tokens
and 32,000 words. Here a chunk's logits are turned into their gradient at once and forgotten, so neither they nor
their gradient outlive the chunk, and nothing is computed twice.

Shape suffixes: N tokens, C hidden size, V vocabulary.
"""
# ruff: noqa: N803, N806 (names end in a tensor's shape)

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.nn import functional

MAX_CHUNK_LOGITS = 2**25
"""Most logits held at once: 128 MiB in fp32; large enough to keep a GPU's matrix units busy."""

TILE = 128
"""Tokens of a GPU's tile in a matrix product; what is left over costs a whole one."""


def weighted_cross_entropy(
    hidden_NC: Tensor,
    weight_VC: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    weights_N: Tensor,
    logits_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of `logits_scale · (hidden @ weight.T + bias)` against the labels.

    Args:
        hidden_NC: Final hidden states, any floating dtype.
        weight_VC: Output matrix in the same dtype.
        bias_V: Output bias, or None.
        labels_N: int64 token ids.
        weights_N: fp32 weight of each token in the sum that is differentiated; 0 for what does not count.
        logits_scale: Factor on the logits.

    Returns:
        The weighted sum (fp32 scalar, differentiable), and each token's own loss in nats (fp32 [N], constant).
    """
    total, losses_N = _WeightedCrossEntropy.apply(hidden_NC, weight_VC, bias_V, labels_N, weights_N, logits_scale)
    return total, losses_N


class _WeightedCrossEntropy(Function):
    """The loss is the end of the graph: its gradient is made in forward, and scaled in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        weights_N: Tensor,
        logits_scale: float,
    ) -> tuple[Tensor, Tensor]:
        chunk = _chunk_tokens(len(labels_N), weight_VC.shape[0])
        losses_N = torch.empty_like(weights_N)
        grad_hidden_NC = torch.empty_like(hidden_NC)
        # Summed over chunks in fp32, whatever the compute dtype.
        grad_weight_VC = torch.zeros_like(weight_VC, dtype=torch.float32)
        grad_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for start in range(0, len(labels_N), chunk):
            part = slice(start, start + chunk)
            logits_NV = functional.linear(hidden_NC[part], weight_VC, bias_V).float()
            if logits_scale != 1.0:
                logits_NV.mul_(logits_scale)
            losses_N[part] = _losses_to_gradient(logits_NV, labels_N[part])
            if not any(ctx.needs_input_grad):
                continue
            grad_NV = logits_NV.mul_(weights_N[part, None] * logits_scale)
            if grad_bias_V is not None:
                grad_bias_V += grad_NV.sum(dim=0)
            grad_NV = grad_NV.to(hidden_NC.dtype)
            grad_hidden_NC[part] = grad_NV @ weight_VC
            grad_weight_VC += grad_NV.T @ hidden_NC[part]
        ctx.save_for_backward(
            grad_hidden_NC,
            grad_weight_VC.to(weight_VC.dtype),
            None if grad_bias_V is None else grad_bias_V.to(weight_VC.dtype),
        )
        ctx.mark_non_differentiable(losses_N)
        return losses_N @ weights_N, losses_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor, _grad_losses: Tensor) -> tuple[Tensor | None, ...]:
        grads = [None if grad is None else grad * grad_total for grad in ctx.saved_tensors]
        return (*grads, None, None, None)


def _chunk_tokens(tokens: int, vocab_size: int) -> int:
    """Tokens of a chunk: as few chunks as the limit allows, alike, and of whole tiles where they have one."""
    most = max(1, MAX_CHUNK_LOGITS // vocab_size)
    if tokens <= most:
        return max(1, tokens)
    alike = math.ceil(tokens / math.ceil(tokens / most))
    return min(most, math.ceil(alike / TILE) * TILE)


def _losses_to_gradient(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Each token's loss; the logits are overwritten by its gradient, softmax − one-hot."""
    tokens = torch.arange(len(labels_N), device=labels_N.device)
    logits_NV -= logits_NV.amax(dim=1, keepdim=True)
    label_logits_N = logits_NV[tokens, labels_N]
    sums_N1 = logits_NV.exp_().sum(dim=1, keepdim=True)
    logits_NV /= sums_N1
    logits_NV[tokens, labels_N] -= 1.0
    return sums_N1.squeeze(1).log() - label_logits_N
