"""Blocks in order through Ray Data: one data set per segment and rank, bounded, quiet, thrown away after use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from threading import Lock

import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionOptions, ExecutionResources

from llm360.errors import IntegrityError, LLM360Error
from llm360_trainer.stream.plan import BlockPlan
from llm360_trainer.stream.source import RowsDatasource

# Read tasks of one rank at a time: one decodes while the other waits for the store.
TASKS_AT_A_TIME = 2
# Blocks of one rank in Ray's object store: two being made, two waiting, one in use.
BLOCKS_IN_STORE = 5
# Blocks of one data set: starting one costs some 50 ms, which the blocks ahead hide.
SEGMENT_BLOCKS = 128

# Ray Data takes a data set's settings from a process-wide context while the data set is made.
_context_lock = Lock()


def read_blocks(
    plan: Iterator[BlockPlan], source_of: Callable[[list[BlockPlan]], RowsDatasource]
) -> Generator[tuple[BlockPlan, pa.Table], None, None]:
    """Read the plan's blocks through Ray Data, a bounded number ahead, and give their tables in order, not copied.

    A run is cut into segments, each a data set of its own: Ray Data plans all read tasks of a data set before the
    first, and a stage of a real run has a hundred thousand. Closing the generator ends the execution.

    Args:
        plan: The blocks; each has rows.
        source_of: Makes the data source of a segment.

    Raises:
        IntegrityError: Ray Data gave fewer or more blocks than were asked for.
        LLM360Error: what a read task raised.
    """
    while segment := list(islice(plan, SEGMENT_BLOCKS)):
        with closing(_tables(source_of(segment))) as tables:
            for block in segment:
                yield block, _next_table(tables, block)
            if next(tables, None) is not None:
                raise IntegrityError(f"rows came after the last step {segment[-1].steps[-1]} that was asked for")


def _next_table(tables: Iterator[pa.Table], block: BlockPlan) -> pa.Table:
    table = next(tables, None)
    if table is None:
        raise IntegrityError(f"the rows ended before step {block.steps[0]}; resume from the last checkpoint")
    return table


def _tables(source: RowsDatasource) -> Generator[pa.Table, None, None]:
    try:
        yield from _dataset(source).iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1)
    except Exception as error:
        cause = _our_error(error)
        if cause is None:
            raise
        raise cause from None


def _dataset(source: RowsDatasource) -> ray.data.Dataset:
    # What goes wrong is raised; Ray Data's account of each of thousands of executions would bury a run's own log.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    tasks = len(source.get_read_tasks(-1))
    with _context_lock:
        context = DataContext.get_current().copy()
        context.execution_options = ExecutionOptions(
            preserve_order=True,
            resource_limits=ExecutionResources.for_limits(object_store_memory=BLOCKS_IN_STORE * source.largest_block),
        )
        context.target_max_block_size = None  # a block stays as its read task made it
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        with DataContext.current(context):
            return ray.data.read_datasource(
                source,
                num_cpus=0,  # the CPUs belong to training; decoding takes a small part of one
                concurrency=min(TASKS_AT_A_TIME, tasks),
                override_num_blocks=tasks,
            )


def _our_error(error: BaseException | None) -> LLM360Error | None:
    """The error of ours that a read task raised, out of what Ray wrapped it in."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        cause = getattr(error, "cause", None)
        if isinstance(error, LLM360Error) and cause is None:
            return error
        error = cause or error.__cause__ or error.__context__
    return None
