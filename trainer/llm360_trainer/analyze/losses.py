"""The loss of every token of texts of any length, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from llm360_trainer.model import Decoder

Losses = NDArray[np.float32]


@torch.inference_mode()
def sequence_losses(decoder: Decoder, sequences: Sequence[Sequence[int]], batch_size: int) -> list[Losses]:
    """How surprising each token is after those before it in its sequence.

    Sequences of like length share a batch; what is shorter is filled up on the right, where no token of it looks, and
    the filling counts nowhere.

    Args:
        decoder: On one device.
        sequences: Token ids; of n there are n − 1 losses.
        batch_size: Sequences at a time.

    Returns:
        Per sequence, in nats, float32[n − 1].

    Raises:
        ValueError: A sequence longer than `max_position_embeddings` + 1.
    """
    device = decoder.embed.weight.device
    losses: list[Losses] = [np.empty(0, np.float32)] * len(sequences)
    order = sorted((index for index, ids in enumerate(sequences) if len(ids) > 1), key=lambda i: -len(sequences[i]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        width = len(sequences[chosen[0]])
        padded = torch.zeros((len(chosen), width), dtype=torch.int64)
        weights = torch.zeros((len(chosen), width - 1))
        for row, index in enumerate(chosen):
            padded[row, : len(sequences[index])] = torch.tensor(sequences[index])
            weights[row, : len(sequences[index]) - 1] = 1.0
        padded = padded.to(device)
        _, losses_BT = decoder.loss(padded[:, :-1], padded[:, 1:], weights.to(device))  # noqa: N806
        for row, found in zip(chosen, losses_BT.float().cpu().numpy(), strict=True):
            losses[row] = found[: len(sequences[row]) - 1]
    return losses


def windows(ids: Sequence[int], context: int | None, length: int) -> list[list[int]]:
    """A text cut so that each token is predicted once: the first after `context`, if there is one.

    Windows do not overlap but for one token, the context of the first prediction of the next.

    Args:
        ids: The text.
        context: The token before it, which ends a document as the training data has it; None: its first token is
            not predicted.
        length: Predictions of a window.
    """
    whole = [*([] if context is None else [context]), *ids]
    return [list(whole[start : start + length + 1]) for start in range(0, max(0, len(whole) - 1), length)]
