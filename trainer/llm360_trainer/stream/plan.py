"""From steps to blocks: which rows of which shards each read task brings. Pure.

A block holds one rank's rows of a few consecutive steps. A row group is decoded whole whatever the rank needs
of it, so a block is measured by the rows that have to be decoded, not by those that are kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate, islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llm360.data.manifest import Chunk, DataManifest
from llm360.data.order import RowRange, StageOrder, largest_share
from llm360.data.rows import GROUP_ROWS
from llm360.errors import InputError


class ShardPart(NamedTuple):
    """Rows [start, stop) of one shard, counted from the shard's first row."""

    key: str  # relative to the manifest's folder
    sha256: str
    bytes: int
    rows: int  # of the whole shard
    chunk: int
    first_row: int  # of the chunk: where the shard begins
    start: int
    stop: int


class BlockPlan(NamedTuple):
    """One rank's rows of `steps`, in order: what one read task brings."""

    steps: tuple[int, ...]
    parts: tuple[ShardPart, ...]

    @property
    def rows(self) -> int:
        """Rows of the block."""
        return sum(part.stop - part.start for part in self.parts)


def check_order(manifest: DataManifest, order: StageOrder) -> None:
    """Refuse an order that was made for other data.

    Raises:
        InputError: the chunks' rows differ.
    """
    if order.chunk_rows != manifest.chunk_rows:
        raise InputError(
            f"the order is for {len(order.chunk_rows)} chunks of {_summary(order.chunk_rows)} rows, the data has"
            f" {len(manifest.chunk_rows)} of {_summary(manifest.chunk_rows)}; make the order from this data's manifest",
            reason="DataChanged",
        )


def plan_blocks(
    manifest: DataManifest,
    order: StageOrder,
    *,
    rank: int,
    world: int,
    first_step: int,
    last_step: int,
    skip: Collection[int],
    block_bytes: int,
) -> Iterator[BlockPlan]:
    """Cut a rank's part of the steps [first_step, last_step) without `skip` into blocks, as they are asked for.

    Args:
        manifest: The data.
        order: Its order; `check_order` holds.
        rank: Whose rows.
        world: Number of ranks.
        first_step: The first step, counted in the stage.
        last_step: Where to stop; this step is not read.
        skip: Steps that are not read.
        block_bytes: Uncompressed bytes to decode for a block; a block holds at least one step whatever its size.
    """
    row_bytes = manifest.row_tokens * np.dtype(manifest.dtype).itemsize
    step_cost = min(order.batch_rows, largest_share(order.batch_rows, world) + 2 * GROUP_ROWS) * row_bytes
    per_block = max(1, block_bytes // step_cost)
    shard_starts = [_shard_starts(chunk) for chunk in manifest.chunks]
    steps = (step for step in range(first_step, last_step) if step not in skip)
    while group := tuple(islice(steps, per_block)):
        ranges = _joined(part for step in group for part in order.rank_rows(step, rank, world))
        parts = tuple(part for rows in ranges for part in _shard_parts(manifest, shard_starts[rows.chunk], rows))
        yield BlockPlan(group, parts)


def positions(ranges: Collection[RowRange]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Chunk (uint32) and row in the chunk (uint64) of every row of the ranges."""
    chunks = [np.full(part.rows, part.chunk, dtype=np.uint32) for part in ranges]
    rows = [np.arange(part.start, part.stop, dtype=np.uint64) for part in ranges]
    return np.concatenate(chunks or [np.empty(0, np.uint32)]), np.concatenate(rows or [np.empty(0, np.uint64)])


def _joined(ranges: Iterator[RowRange]) -> list[RowRange]:
    """The same rows with ranges that touch made one: a single rank's steps follow each other without a gap."""
    joined: list[RowRange] = []
    for part in ranges:
        if joined and joined[-1].chunk == part.chunk and joined[-1].stop == part.start:
            joined[-1] = joined[-1]._replace(stop=part.stop)
        else:
            joined.append(part)
    return joined


def _shard_starts(chunk: Chunk) -> list[int]:
    """The chunk's row at which each of its shards begins."""
    return list(accumulate((shard.rows for shard in chunk.shards), initial=0))[:-1]


def _shard_parts(manifest: DataManifest, starts: list[int], rows: RowRange) -> Iterator[ShardPart]:
    at, index = rows.start, bisect_right(starts, rows.start) - 1
    while at < rows.stop:
        shard, first = manifest.chunks[rows.chunk].shards[index], starts[index]
        stop = min(rows.stop, first + shard.rows)
        yield ShardPart(
            key=shard.key,
            sha256=shard.sha256,
            bytes=shard.bytes,
            rows=shard.rows,
            chunk=rows.chunk,
            first_row=first,
            start=at - first,
            stop=stop - first,
        )
        at, index = stop, index + 1


def _summary(chunk_rows: tuple[int, ...]) -> str:
    return ", ".join(map(str, chunk_rows[:3])) + (", …" if len(chunk_rows) > 3 else "")
