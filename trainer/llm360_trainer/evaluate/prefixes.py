"""Sequences that begin alike, as a tree whose nodes are computed once. Pure.

The four endings of a question follow the same 25 solved examples; all questions of a subject may follow the same five.
Each run of tokens that several sequences share becomes one node; what is left of each is a node below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

MIN_SHARED = 16
"""Fewest tokens worth a node of their own: a forward pass over fewer costs as much as computing them anew."""


@dataclass(eq=False)
class Node:
    """Tokens that follow those of the nodes above.

    Attributes:
        start: How many tokens stand before them.
        tokens: Token ids, at least one.
        sequences: Indices of the sequences that run through this node.
        children: What follows, each with its own continuation.
    """

    start: int
    tokens: tuple[int, ...]
    sequences: list[int]
    children: list[Node] = field(default_factory=list)

    @property
    def end(self) -> int:
        """How many tokens there are up to this node's last."""
        return self.start + len(self.tokens)

    @property
    def deepest(self) -> int:
        """How many tokens the longest sequence through this node has."""
        return max((child.deepest for child in self.children), default=self.end)

    @property
    def ended(self) -> set[int]:
        """Indices of the sequences whose last token is this node's last."""
        return set(self.sequences).difference(*(child.sequences for child in self.children))


def prefix_tree(sequences: Sequence[tuple[int, ...]], min_shared: int = MIN_SHARED) -> list[Node]:
    """The roots of the tree of all sequences.

    Each sequence is the concatenation of the tokens on exactly one path from a root.

    Args:
        sequences: Token ids; distinct, none empty.
        min_shared: Shorter common beginnings are not shared.
    """
    order = sorted(range(len(sequences)), key=lambda index: sequences[index])
    ordered = [sequences[index] for index in order]
    common = [_num_common(before, after) for before, after in pairwise(ordered)]
    roots: list[Node] = []
    # Neighbours in the order that are still to be divided: first, last + 1, tokens placed, where their nodes go.
    waiting: list[tuple[int, int, int, list[Node]]] = [(0, len(order), 0, roots)] if order else []
    while waiting:
        first, stop, start, siblings = waiting.pop()
        alone = stop - first == 1
        shared = len(ordered[first]) if alone else min(common[first : stop - 1])
        if shared - start >= (1 if alone else min_shared):
            node = Node(start, ordered[first][start:shared], order[first:stop])
            siblings.append(node)
            start, siblings = shared, node.children
        if not alone:
            cuts = [first, *(index + 1 for index in range(first, stop - 1) if common[index] == shared), stop]
            waiting += [(*part, start, siblings) for part in pairwise(cuts)]
    return roots


def _num_common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """How many first tokens are the same."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    low, high = 0, length  # the first `low` agree, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
