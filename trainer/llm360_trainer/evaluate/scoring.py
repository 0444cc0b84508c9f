"""Log-likelihoods of continuations, computed in batches of like length, each shared beginning once. Torch alone.

    requests ──▶ distinct inputs ──▶ prefix_tree ──▶ batches of nodes: extend the cache ──▶ logits where they are scored

Logits, the larger part of a small model's work, are computed at scored positions only.

Shape suffixes are the decoder's (`model/decoder.py`), and:
    N  new tokens of a sequence        P  positions that are scored
"""
# ruff: noqa: N803, N806 (names end in a tensor's shape)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.evaluate.prefixes import Node, prefix_tree
from llm360_trainer.model import Decoder
from llm360_trainer.model.decode import Cache, extend, logits

_LOGIT_PLACES = 512  # targets whose logits are in memory together: 64 MiB of fp32 for 32,000 tokens
_SPARE_SLOTS = 32  # beyond the longest sequence, so that endings of unlike length fit into one batch


class Request(NamedTuple):
    """A continuation to be scored after its context.

    Attributes:
        context: Token ids, at least one.
        continuation: Token ids, at least one.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Likelihood(NamedTuple):
    """What a model says of a continuation.

    Attributes:
        log_likelihood: Natural logarithm of its probability, summed over its tokens.
        is_greedy: Whether each of its tokens is the likeliest.
    """

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True)
class _Scored:
    """A request as the tree knows it: `targets[i]` is predicted at position `first + i` of input number `sequence`."""

    sequence: int
    first: int
    targets: tuple[int, ...]


def score(decoder: Decoder, requests: Sequence[Request], batches: Batches) -> list[Likelihood]:
    """The likelihood of each continuation, in the order of the requests.

    What is longer than the model's positions loses tokens from the left, as the harness has it.

    Args:
        decoder: On one device, not sharded.
        requests: What is to be scored.
        batches: How many sequences at a time.

    Raises:
        LLM360Error: memory does not suffice for one sequence.
    """
    limit = decoder.config.max_position_embeddings
    inputs: dict[tuple[int, ...], int] = {}
    scored: list[_Scored] = []
    for request in requests:
        tokens = (request.context + request.continuation)[-(limit + 1) :]
        targets = request.continuation[-(len(tokens) - 1) :]
        sequence = inputs.setdefault(tokens[:-1], len(inputs))
        scored.append(_Scored(sequence, len(tokens) - 1 - len(targets), targets))
    by_sequence: list[list[int]] = [[] for _ in inputs]
    for number, request_scored in enumerate(scored):
        by_sequence[request_scored.sequence].append(number)
    sums = _Sums(scored, by_sequence, [0.0] * len(scored), [True] * len(scored))
    _Scoring(decoder, batches, sums).run(prefix_tree(list(inputs)))
    return [Likelihood(total, greedy) for total, greedy in zip(sums.totals, sums.greedy, strict=True)]


@dataclass(frozen=True)
class _Scoring:
    """One call of `score`."""

    decoder: Decoder
    batches: Batches
    sums: _Sums

    def run(self, nodes: Sequence[Node], above: Cache | None = None, rows: Sequence[int] = ()) -> None:
        """Compute nodes and all below them; the longest first, so that a lack of memory shows at once.

        Args:
            nodes: Their tokens follow what `above` remembers.
            above: None for roots.
            rows: For each node its row of `above`.
        """
        waiting = sorted(range(len(nodes)), key=lambda index: (-len(nodes[index].tokens), nodes[index].tokens, index))
        while waiting:
            batch = self._next(nodes, waiting, above)
            part = [nodes[index] for index in batch]
            compute = partial(self._compute, part, above, [rows[index] for index in batch] if above else [])
            cache = self.batches.attempt(len(batch), compute)
            if cache is None:
                continue
            del waiting[: len(batch)]
            below = [(child, row) for row, node in enumerate(part) for child in node.children]
            if below:
                self.run([child for child, _ in below], cache, [row for _, row in below])
            self.batches.done(sum(len(self.sums.by_sequence[index]) for node in part for index in node.ended))

    def _next(self, nodes: Sequence[Node], waiting: Sequence[int], above: Cache | None) -> list[int]:
        """As many nodes as a batch takes: padded to the longest, each must still find room in the cache."""
        batch: list[int] = []
        start = length = 0
        for index in waiting[: self.batches.size]:
            start, length = max(start, nodes[index].start), max(length, len(nodes[index].tokens))
            if batch and above is not None and start + length > above.num_slots:
                break
            batch.append(index)
        return batch

    def _compute(self, nodes: list[Node], above: Cache | None, rows: list[int]) -> Cache:
        """Extend the cache by the nodes' tokens and score what is scored there."""
        device = self.decoder.embed.weight.device
        counts = [len(node.tokens) for node in nodes]
        padded = [[*node.tokens, *[0] * (max(counts) - len(node.tokens))] for node in nodes]
        if above is None:
            slots = max(node.deepest for node in nodes) + _SPARE_SLOTS
            cache = Cache.empty(self.decoder, len(nodes), min(slots, self.decoder.config.max_position_embeddings))
        else:
            cache = above.select(rows)
        hidden_BNC = extend(self.decoder, cache, torch.tensor(padded, dtype=torch.int64, device=device), counts)
        places = list(self.sums.places(nodes))
        parts = [places[first : first + _LOGIT_PLACES] for first in range(0, len(places), _LOGIT_PLACES)]
        # Nothing is added before all is there: after a lack of memory the same nodes are computed again.
        for place, value, is_likeliest in [found for part in parts for found in self._look_up(hidden_BNC, part)]:
            self.sums.totals[place.request] += value
            self.sums.greedy[place.request] &= is_likeliest
        return cache

    def _look_up(self, hidden_BNC: Tensor, places: list[_Place]) -> list[tuple[_Place, float, bool]]:
        """The log-probability of each target at its place, and whether it is the likeliest."""
        device = hidden_BNC.device
        positions = {(place.row, place.column): None for place in places}
        numbers = {position: number for number, position in enumerate(positions)}
        index_P2 = torch.tensor(list(positions), device=device)
        logits_PV = logits(self.decoder, hidden_BNC[index_P2[:, 0], index_P2[:, 1]]).float()
        log_probabilities_PV = torch.log_softmax(logits_PV, dim=-1)
        picked = torch.tensor([numbers[place.row, place.column] for place in places], device=device)
        targets = torch.tensor([place.target for place in places], device=device)
        values: list[float] = log_probabilities_PV[picked, targets].tolist()
        likeliest: list[bool] = (log_probabilities_PV.argmax(dim=-1)[picked] == targets).tolist()
        return list(zip(places, values, likeliest, strict=True))


class _Place(NamedTuple):
    """A target at a position of a batch: row b and column n of hidden[B, N, C]."""

    row: int
    column: int
    target: int
    request: int


@dataclass(frozen=True)
class _Sums:
    """What was found so far, by the number of the request.

    Attributes:
        scored: The requests.
        by_sequence: Numbers of the requests of each input.
        totals: Log-likelihood so far.
        greedy: Whether all targets so far were the likeliest.
    """

    scored: Sequence[_Scored]
    by_sequence: Sequence[Sequence[int]]
    totals: list[float]
    greedy: list[bool]

    def places(self, nodes: Sequence[Node]) -> Iterator[_Place]:
        """All targets that are predicted inside these nodes."""
        for row, node in enumerate(nodes):
            for sequence in node.sequences:
                for number in self.by_sequence[sequence]:
                    scored = self.scored[number]
                    for position in range(
                        max(scored.first, node.start), min(scored.first + len(scored.targets), node.end)
                    ):
                        yield _Place(row, position - node.start, scored.targets[position - scored.first], number)
