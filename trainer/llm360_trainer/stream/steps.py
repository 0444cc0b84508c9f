"""A rank's steps: blocks cut into steps, the position of every row checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm360.data.manifest import DataManifest
from llm360.data.order import RowRange, StageOrder
from llm360.data.rows import from_fixed_binary
from llm360.errors import IntegrityError
from llm360.storage import StorageOptions
from llm360_trainer.stream.blocks import read_blocks
from llm360_trainer.stream.plan import BlockPlan, check_order, plan_blocks, positions
from llm360_trainer.stream.shards import ShardCache
from llm360_trainer.stream.source import RowFormat, RowsDatasource

# Uncompressed bytes to decode for a block: enough that a task's fixed cost of some milliseconds does not count.
BLOCK_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True)
class StepRows:
    """One rank's rows of one step. The arrays are read-only views of a block, which lives while one is held."""

    step: int
    """Counted in the stage, from 0."""
    ids: NDArray[Any]
    """[rows, row_tokens], the manifest's dtype."""
    loss_mask: NDArray[np.uint8] | None
    """[rows, predictions] uint8, 1 where the label counts; None where all do."""
    source: NDArray[np.uint16]
    """[rows] uint16, index into the manifest's sources."""
    wait_seconds: float
    """How long the caller was kept waiting for this step."""


class StepStream(Iterator[StepRows]):
    """A rank's steps in order; `stream_steps` makes it.

    Reading starts when the stream is made, so the next segment can be opened before the current one ends.
    Exhausting it, closing it or leaving its `with` block ends Ray Data's execution and releases the blocks.

    Args:
        blocks: The plan's blocks and their tables, in order; closed with the stream.
        row_format: What the tables look like.
        expected: The rows that a step must bring, by the order's formula.
    """

    def __init__(
        self,
        blocks: Generator[tuple[BlockPlan, pa.Table], None, None],
        row_format: RowFormat,
        expected: Callable[[int], tuple[RowRange, ...]],
    ) -> None:
        self._blocks, self._format, self._expected = blocks, row_format, expected
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="llm360-stream")
        self._ahead = self._reader.submit(next, blocks, None)
        self._steps = self._iterate()
        self._is_open = True

    def __next__(self) -> StepRows:
        """The next step.

        Raises:
            IntegrityError: a row is not the one that the order names, or a shard is not what the manifest names.
            ObjectNotFoundError: a shard is missing.
            StorageUnavailableError: the store gives no answer.
        """
        return next(self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Read no further. Returns at once; a read that is under way ends in the background."""
        self._steps.close()
        self._release()

    def _iterate(self) -> Generator[StepRows, None, None]:
        try:
            while True:
                started = time.perf_counter()
                ahead = self._ahead.result()
                waited = time.perf_counter() - started
                if ahead is None:
                    return
                self._ahead = self._reader.submit(next, self._blocks, None)
                yield from self._cut(*ahead, waited)
                del ahead  # lets the block go while the next one is awaited
        finally:
            self._release()

    def _cut(self, block: BlockPlan, table: pa.Table, waited: float) -> Iterator[StepRows]:
        """The steps of a block; each row's position is checked before its step is handed out."""
        layout = self._format
        ids = matrix(table["ids"], layout.id_dtype, layout.row_tokens)
        loss_mask = matrix(table["loss_mask"], "uint8", layout.row_tokens - 1) if layout.has_loss_mask else None
        source, chunk, row = (table[name].to_numpy() for name in ("source", "chunk", "row"))
        start = 0
        for step in block.steps:
            expected = self._expected(step)
            stop = start + sum(part.rows for part in expected)
            check_positions(step, expected, chunk[start:stop], row[start:stop])
            yield StepRows(
                step=step,
                ids=ids[start:stop],
                loss_mask=None if loss_mask is None else loss_mask[start:stop],
                source=source[start:stop],
                wait_seconds=waited,
            )
            start, waited = stop, 0.0
        if start != table.num_rows:
            raise IntegrityError(
                f"the block of the steps {block.steps[0]} to {block.steps[-1]} brought {table.num_rows} rows,"
                f" expected {start}; resume from the last checkpoint"
            )

    def _release(self) -> None:
        if self._is_open:
            self._is_open = False
            self._reader.submit(self._blocks.close)
            self._reader.shutdown(wait=False)


def stream_steps(
    data_uri: str,
    options: StorageOptions,
    manifest: DataManifest,
    order: StageOrder,
    *,
    rank: int,
    world: int,
    first_step: int,
    last_step: int,
    skip: Collection[int] = (),
    cache: ShardCache | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> StepStream:
    """Start to stream one rank's rows of the steps [first_step, last_step) in the running Ray.

    Where the batch has fewer rows than the world has ranks, the last ranks get steps without rows.

    Args:
        data_uri: The folder of the manifest.
        options: How to reach it.
        manifest: What lies there; its digest has been checked by the caller.
        order: Which rows each step reads.
        rank: Whose rows.
        world: Number of ranks.
        first_step: First step, counted in the stage.
        last_step: Where to stop; this step is not read.
        skip: Steps neither read nor given.
        cache: The node's checked shards; default `ShardCache.from_environment()`.
        block_bytes: Uncompressed bytes to decode for one block; at most a few blocks exist at a time.

    Raises:
        InputError: the order is for other data, or has no such steps or ranks.
    """
    check_order(manifest, order)
    order.rows_between(first_step, last_step)  # refuses steps that do not exist
    row_format = RowFormat(manifest.row_tokens, manifest.dtype, manifest.has_loss_mask)
    expected = partial(order.rank_rows, rank=rank, world=world)
    if first_step < last_step:
        expected(first_step)  # refuses ranks that do not exist
    plan = plan_blocks(
        manifest,
        order,
        rank=rank,
        world=world,
        first_step=first_step,
        last_step=last_step,
        skip=skip,
        block_bytes=block_bytes,
    )
    if rank < order.batch_rows:
        cache = cache or ShardCache.from_environment()
        blocks = read_blocks(plan, partial(RowsDatasource, data_uri, options, row_format, cache))
    else:
        blocks = ((block, _no_rows(row_format)) for block in plan)
    return StepStream(blocks, row_format, expected)


def check_positions(step: int, expected: tuple[RowRange, ...], chunk: NDArray[Any], row: NDArray[Any]) -> None:
    """Hold the rows that came against those that the order names.

    Args:
        step: For the message.
        expected: The rows by the order's formula.
        chunk: [rows] chunk of each row that came.
        row: [rows] its row in the chunk.

    Raises:
        IntegrityError: naming the first row that differs.
    """
    wanted_chunk, wanted_row = positions(expected)
    if np.array_equal(chunk, wanted_chunk) and np.array_equal(row, wanted_row):
        return
    found = list(zip(chunk.tolist(), row.tolist(), strict=True))
    wanted = list(zip(wanted_chunk.tolist(), wanted_row.tolist(), strict=True))
    pairs = enumerate(zip_longest(found, wanted))
    at = next(index for index, (came, due) in pairs if came != due)
    raise IntegrityError(
        f"row {at} of this rank in step {step} must be {_place(wanted, at)}, but {_place(found, at)} came;"
        " nothing was trained on it: resume from the last checkpoint, and if it comes again report it"
    )


def matrix(column: pa.ChunkedArray[Any], dtype: str, width: int) -> NDArray[Any]:
    """A column as an array [rows, width]: a view, because `read_block` makes columns of one piece."""
    return from_fixed_binary(column.chunks[0], dtype) if len(column) else np.empty((0, width), dtype)


def _no_rows(row_format: RowFormat) -> pa.Table:
    """A block of a rank beyond the batch's rows."""
    columns = [pa.array([], field.type) for field in row_format.schema]
    return pa.table(columns, schema=row_format.schema)


def _place(rows: list[tuple[int, int]], at: int) -> str:
    return f"row {rows[at][1]} of chunk {rows[at][0]}" if at < len(rows) else "no row"
