"""How runs share the evaluations that the operator allows at a time, where there is such a bound.

Whoever has the fewest goes first. So of two runs that wait neither gets ahead of the other by more than one. Nothing
is taken away: a run that comes later catches up as evaluations end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from llm360_operator.names import Key


class Share(NamedTuple):
    """What a run has: evaluations that run, and those that only the bound keeps from running."""

    running: int
    wanting: int


class Sharing:
    """The shares of all runs, as their last rounds left them.

    Args:
        bound: Most evaluations of all runs at a time; None: no bound.
    """

    def __init__(self, bound: int | None) -> None:
        self.bound = bound
        self._shares: dict[Key, Share] = {}

    def note(self, key: Key, share: Share | None) -> Key | None:
        """Note what a run has; None: it is gone.

        Returns:
            Who may begin the evaluation for which this makes room, if it does and somebody wants to.
        """
        before = self._shares.pop(key, Share(0, 0))
        if share is not None:
            self._shares[key] = share
        has_less = (share or Share(0, 0)).running < before.running
        return self._neediest() if has_less and self.bound is not None else None

    def slots(self, key: Key, running: int) -> int | None:
        """How many more a run may begin now.

        Args:
            key: The run.
            running: What it has.
        """
        if self.bound is None:
            return None
        return slots(self.bound, running, {other: share for other, share in self._shares.items() if other != key})

    def _neediest(self) -> Key | None:
        wanting = [(share.running, key) for key, share in self._shares.items() if share.wanting]
        return min(wanting)[1] if wanting else None


def slots(bound: int, running: int, others: Mapping[Key, Share]) -> int:
    """How many more evaluations a run may begin: as many as are free, until it has one more than one that waits."""
    free = bound - running - sum(share.running for share in others.values())
    fewest = min((share.running for share in others.values() if share.wanting), default=None)
    return max(0, free if fewest is None else min(free, fewest + 1 - running))
