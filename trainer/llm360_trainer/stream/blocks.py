"""Blocks in order through Ray Data: one data set per segment and rank, bounded, quiet, thrown away after use."""

from __future__ import annotations

import logging
from collections.abc import Generator
from threading import Lock

import pyarrow as pa
import ray.data
from ray.data import DataContext, ExecutionOptions, ExecutionResources

from llm360.errors import LLM360Error
from llm360_trainer.stream.source import RowsDatasource

# Read tasks of one rank at a time: one decodes while the other waits for the store.
TASKS_AT_A_TIME = 2
# Blocks of one rank in Ray's object store: two being made, two waiting, one in use.
BLOCKS_IN_STORE = 5

# Ray Data takes a data set's settings from a process-wide context while the data set is made.
_context_lock = Lock()


def read_blocks(source: RowsDatasource) -> Generator[pa.Table, None, None]:
    """Run the source's read tasks, a bounded number ahead, and give their tables in order, not copied.

    Closing the generator ends the execution.

    Raises:
        LLM360Error: what a read task raised.
    """
    if not source.get_read_tasks(-1):
        return
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
