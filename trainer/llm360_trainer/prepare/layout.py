"""Which rows are taken, and where each goes: arithmetic on counts, before any row is moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from llm360.data.rows import GROUP_ROWS
from llm360.errors import InputError
from llm360_trainer.prepare.permutation import Permutation

# Most bytes of ids in a shard: what one core holds in memory while it writes, and what a reader fetches at most.
SHARD_BYTES = 32 * 2**20


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write: places `[start, stop)` of the whole order."""

    key: str
    chunk: int
    start: int
    stop: int


@dataclass(frozen=True)
class Layout:
    """Where every row goes.

    Args:
        available: Rows of each source that there are to be taken, those of a source taken several times counted so
            often.
        taken: Rows of each source in the data set.
        chunk_rows: Rows of each chunk.
        shard_rows: Rows of each shard but a chunk's last.
        seed: Seed of the global shuffle; None keeps the order of the input, source after source.
        prefix: Folder of the shards.
        copies: How often each source's rows are there; None: all once.
        periods: Where rows are dealt to the chunks: row i of a source goes to the chunks c with c mod period = i mod
            period. None: they are not dealt.
    """

    available: tuple[int, ...]
    taken: tuple[int, ...]
    chunk_rows: tuple[int, ...]
    shard_rows: int
    seed: int | None
    prefix: str
    copies: tuple[int, ...] | None = None
    periods: tuple[int, ...] | None = None

    def distinct(self, source: int) -> int:
        """Rows of a source of which no two are copies of one."""
        return self.available[source] // (self.copies[source] if self.copies else 1)

    @property
    def rows(self) -> int:
        """Rows of the data set."""
        return sum(self.taken)

    def places(self, source: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where rows[n] of a source go in the whole order; -1 for those that are not taken.

        With a shuffle, which rows of a source are taken is drawn from the seed as well; without one they are its
        first. Numbers count the copies of a source's rows one after another.
        """
        if self.periods is not None:
            return self._dealt(source, rows)
        order = rows
        if self.seed is not None:
            order = Permutation(self.available[source], self.seed, f"rows of source {source}")(rows)
        before = sum(self.taken[:source])
        is_taken = order < self.taken[source]
        places = np.where(is_taken, before + order, -1)
        if self.seed is not None:
            places[is_taken] = Permutation(self.rows, self.seed, "order of rows")(places[is_taken])
        return places

    def _dealt(self, source: int, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of dealt rows: a chunk holds source after source, each in its order, unless a seed shuffles it."""
        assert self.periods is not None
        chunks, period, distinct = len(self.chunk_rows), self.periods[source], self.distinct(source)
        copy, row = rows // distinct, rows % distinct
        chunk = row % period + copy * period
        in_each = [rows_taken // chunks for rows_taken in self.taken]
        inside = sum(in_each[:source]) + row // period
        is_taken = (chunk < chunks) & (row // period < in_each[source])
        if self.seed is not None:
            for number in np.unique(chunk[is_taken]).tolist():
                here = is_taken & (chunk == number)
                inside[here] = Permutation(sum(in_each), self.seed, f"rows of chunk {number}")(inside[here])
        return np.where(is_taken, chunk * sum(in_each) + inside, -1)

    @cached_property
    def shards(self) -> tuple[ShardPlan, ...]:
        """The shards in training order; no shard crosses a chunk."""
        plans = []
        for chunk, end in enumerate(accumulate(self.chunk_rows)):
            begin = end - self.chunk_rows[chunk]
            for number, start in enumerate(range(begin, end, self.shard_rows)):
                key = f"{self.prefix}/chunk-{chunk:05d}/shard-{number:05d}.parquet"
                plans.append(ShardPlan(key, chunk, start, min(start + self.shard_rows, end)))
        return tuple(plans)


def plan_layout(
    *,
    names: Sequence[str],
    available: Sequence[int],
    weights: Sequence[Fraction | None],
    chunks: int,
    max_rows: int | None,
    row_bytes: int,
    seed: int | None,
    prefix: str,
    times: Sequence[Fraction] | None = None,
    is_dealt: bool = False,
) -> Layout:
    """Decide how many rows of each source are taken and how they fall into chunks.

    Without weights every row is taken as often as it is there. With weights the mix is as large as it can be without
    taking any row oftener: the source that runs out first sets the size, of the others only a part is taken. `max_rows`
    makes the mix smaller; without weights sources then share it by their sizes. Chunks differ by at most one row, the
    first ones having more. Where rows are dealt, every chunk has as many of each source; the rest is left out.

    Args:
        names: Of the sources, for messages.
        available: Rows that each source fills.
        weights: All None, or all numbers above 0.
        chunks: How many.
        max_rows: Most rows of all sources together; None takes as many as there are.
        row_bytes: Bytes of a row's ids.
        seed: Of the shuffle; None keeps the order.
        prefix: Folder of the shards.
        times: How often each source's rows are there: whole numbers, or shares below 1. None: all once.
        is_dealt: Whether row after row of a source goes to chunk after chunk.

    Raises:
        InputError: there are not enough rows, or rows cannot be dealt so often.
    """
    times = times or [Fraction(1)] * len(names)
    empty = [name for name, rows in zip(names, available, strict=True) if rows == 0]
    if empty:
        raise InputError(
            f"source {', '.join(empty)} has too little text to fill one row of {row_bytes} bytes of ids;"
            " add text, shorten --sequence-length or leave the source out"
        )
    copies = tuple(max(1, int(often)) for often in times)
    there = tuple(rows * copy for rows, copy in zip(available, copies, strict=True))
    periods = None
    if is_dealt:
        periods = tuple(deal_period(name, chunks, often) for name, often in zip(names, times, strict=True))
        in_each = [rows // period for rows, period in zip(available, periods, strict=True)]
        taken = tuple(rows * chunks for rows in in_each)
        chunk_rows = (sum(in_each),) * chunks
    else:
        at_most = [int(rows * often) for rows, often in zip(available, times, strict=True)]
        given = [weight for weight in weights if weight is not None]
        if max_rows is not None and not given:
            given = [Fraction(rows) for rows in at_most]
        taken = apportion(at_most, given, max_rows) if given else tuple(at_most)
        chunk_rows = plan_chunk_rows(sum(taken), chunks)
    if min(chunk_rows) == 0:
        rows = sum(taken) or sum(available)
        raise InputError(f"the data set has {rows} rows, too few for {chunks} chunks; add text or ask for fewer chunks")
    return Layout(there, taken, chunk_rows, plan_shard_rows(row_bytes), seed, prefix, copies, periods)


def deal_period(name: str, chunks: int, times: Fraction) -> int:
    """After how many rows of a source the deal comes back to the same chunk.

    Raises:
        InputError: so many chunks cannot have every row that often.
    """
    period = chunks / times
    if period.denominator != 1:
        raise InputError(
            f"source {name} is taken {times} times and cannot be dealt to {chunks} chunks so that each has as many"
            " rows; take a number of times that divides the chunks"
        )
    return int(period)


def plan_chunk_rows(rows: int, chunks: int) -> tuple[int, ...]:
    """Rows of each chunk: as equal as they can be, the first ones having one more."""
    return tuple(rows // chunks + (chunk < rows % chunks) for chunk in range(chunks))


def plan_shard_rows(row_bytes: int) -> int:
    """Rows of a shard: whole row groups of at most `SHARD_BYTES` of ids together, at least one group."""
    return max(1, SHARD_BYTES // row_bytes // GROUP_ROWS) * GROUP_ROWS


def apportion(available: Sequence[int], weights: Sequence[Fraction], most: int | None = None) -> tuple[int, ...]:
    """Rows of each source in the largest mix of these weights that repeats none.

    The total is the largest number of which no source's share exceeds its rows, or `most` if that is less. Shares
    are rounded down, and the rows that are left go to the largest remainders (of equals, to the first).
    """
    shares = [weight / sum(weights) for weight in weights]
    total = int(min(rows / share for rows, share in zip(available, shares, strict=True)))
    if most is not None:
        total = min(total, most)
    exact = [total * share for share in shares]
    taken = [int(part) for part in exact]
    by_remainder = sorted(range(len(exact)), key=lambda source: taken[source] - exact[source])
    for source in by_remainder[: total - sum(taken)]:
        taken[source] += 1
    return tuple(taken)
