"""Greedy text up to a stop, in batches of like length. Torch alone.

Shape suffixes are the decoder's (`model/decoder.py`), and N: new tokens of a sequence.
"""
# ruff: noqa: N806 (names end in a tensor's shape)

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.model import Decoder
from llm360_trainer.model.decode import Cache, extend, logits


def generate(
    decoder: Decoder,
    contexts: Sequence[Sequence[int]],
    num_tokens: int,
    is_over: Callable[[Sequence[int]], bool],
    batches: Batches,
) -> list[list[int]]:
    """The likeliest next token, again and again, until a sequence is over or has `num_tokens` of them.

    Args:
        decoder: On one device, not sharded.
        contexts: Token ids, at least one each, and no more than the model has room for beside what is generated.
        num_tokens: How many to generate at most.
        is_over: Says of what was generated so far, at least one token, whether that is all.
        batches: How many sequences at a time.

    Returns:
        Per context what was generated, the token that made it be over included.
    """
    waiting = sorted(range(len(contexts)), key=lambda index: -len(contexts[index]))
    found: list[list[int]] = [[] for _ in contexts]
    while waiting:
        batch = waiting[: batches.size]
        compute = partial(_decode, decoder, [contexts[index] for index in batch], num_tokens, is_over)
        decoded = batches.attempt(len(batch), compute)
        if decoded is None:
            continue
        for index, ids in zip(batch, decoded, strict=True):
            found[index] = ids
        del waiting[: len(batch)]
        batches.done(len(batch))
    return found


def _decode(
    decoder: Decoder, contexts: Sequence[Sequence[int]], num_tokens: int, is_over: Callable[[Sequence[int]], bool]
) -> list[list[int]]:
    """One batch; sequences that are over leave it."""
    device = decoder.embed.weight.device
    counts = [len(context) for context in contexts]
    padded = [[*context, *[0] * (max(counts) - len(context))] for context in contexts]
    # The last token that is decoded is never read back.
    cache = Cache.empty(decoder, len(contexts), max(counts) + num_tokens - 1)
    hidden_BNC = extend(decoder, cache, torch.tensor(padded, dtype=torch.int64, device=device), counts)
    last_B = torch.tensor(counts, device=device) - 1
    hidden_BC = hidden_BNC[torch.arange(len(contexts), device=device), last_B]
    decoded: list[list[int]] = [[] for _ in contexts]
    running = list(range(len(contexts)))
    while True:
        for sequence, token in zip(running, logits(decoder, hidden_BC).argmax(dim=-1).tolist(), strict=True):
            decoded[sequence].append(token)
        kept = [
            row
            for row, sequence in enumerate(running)
            if len(decoded[sequence]) < num_tokens and not is_over(decoded[sequence])
        ]
        if not kept:
            return decoded
        if len(kept) < len(running):
            cache, running = cache.select(kept), [running[row] for row in kept]
        last = [[decoded[sequence][-1]] for sequence in running]
        hidden_BC = extend(decoder, cache, torch.tensor(last, device=device))[:, 0]
