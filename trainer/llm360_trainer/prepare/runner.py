"""Where the steps of a preparation run: in this process, or as Ray Data tasks on all cores.

Items, blocks and results cross between processes as pickles in one binary column: Ray Data moves them, spreads them
over cores and machines and bounds what is under way, and never needs to understand them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import pyarrow as pa
import ray
import ray.data
from ray.data import DataContext

from llm360.errors import LLM360Error
from llm360_trainer.prepare.cluster import check_reachable, not_started, unreachable
from llm360_trainer.prepare.signals import kept_handlers
from llm360_trainer.prepare.waiting import wait_for_processor

Item = TypeVar("Item")
Block = TypeVar("Block")
Result = TypeVar("Result")

# Tasks that items are dealt to; more would only add overhead.
MAX_TASKS = 10_000
# Bytes of shared memory that a local Ray may use; blocks under way need far less.
OBJECT_STORE_BYTES = 512 * 2**20


class Runner(Protocol):
    """Applies functions to items, in any order and side by side."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """The results, as they come."""

    def expand(
        self, expand: Callable[[Item], Iterable[Block]], work: Callable[[Block], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """The results of `work` on every block that `expand` gives for an item, as they come."""


class InProcess:
    """Runs everything here, one after another."""

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See `Runner`."""
        return map(work, items)

    def expand(
        self, expand: Callable[[Item], Iterable[Block]], work: Callable[[Block], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """See `Runner`."""
        return (work(block) for item in items for block in expand(item))


class RayData:
    """Runs on a Ray that is started already; see `ray_session`.

    Args:
        say: Takes a sentence for a person, where the Ray has no free processor.
    """

    def __init__(self, say: Callable[[str], object]) -> None:
        self._say = say

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """See `Runner`."""
        wait_for_processor(self._say)
        with DataContext.current(_context()):
            results = _apply(_dataset(items), _Each(work))
        return _unpack(results)

    def expand(
        self, expand: Callable[[Item], Iterable[Block]], work: Callable[[Block], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """See `Runner`.

        Reading takes next to no processor, and is a step of its own so that the blocks of one large file spread
        over all cores.
        """
        wait_for_processor(self._say)
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        readers = ray.data.TaskPoolStrategy(size=min(cores, len(items)))
        with DataContext.current(_context()):
            blocks = _dataset(items).map_batches(
                _Many(expand), batch_size=1, batch_format="pyarrow", num_cpus=0, compute=readers
            )
            results = _apply(blocks, _Each(work))
        return _unpack(results)


def tell(sentence: str) -> None:
    """Say a sentence on standard error."""
    print(sentence, file=sys.stderr, flush=True)


@contextlib.contextmanager
def ray_session(
    address: str | None = None, cpus: int | None = None, say: Callable[[str], object] = tell
) -> Iterator[RayData]:
    """A Ray to run on: the one that is started already, a cluster's, or a local one that ends with the session.

    Args:
        address: Of a cluster, `auto` to find it; None starts a local Ray.
        cpus: Cores of the local Ray; None takes all.
        say: Takes a sentence for a person, where the Ray has no free processor.

    Raises:
        InputError: no cluster answers at the address.
        LLM360Error: Ray did not start here.
    """
    if ray.is_initialized():
        with _quiet():
            yield RayData(say)
        return
    try:
        with kept_handlers():
            _start_ray(address, cpus)
        with _quiet():
            yield RayData(say)
    finally:
        ray.shutdown()


def _start_ray(address: str | None, cpus: int | None) -> None:
    # "local": without an address Ray would join, or miss, whatever cluster was last started on this machine.
    options: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
    else:
        check_reachable(address)
    try:
        ray.init(**options)
    except Exception as error:
        raise (not_started(error) if address is None else unreachable(address, error)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Our own progress speaks for Ray Data's notes on every execution."""
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _context() -> DataContext:
    """Settings of our data sets only; others in this process, such as those that feed training, keep theirs."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # Every block is one task's work, however small: without this Ray Data would collect 128 MiB first.
    context.target_max_block_size = 1
    return context


def _dataset(items: Sequence[Any]) -> ray.data.Dataset:
    rows = [{"item": pickle.dumps(item)} for item in items]
    return ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_TASKS))


def _apply(dataset: ray.data.Dataset, function: Callable[[pa.Table], Iterator[pa.Table]]) -> ray.data.Dataset:
    return dataset.map_batches(function, batch_size=1, batch_format="pyarrow", num_cpus=1)


def _unpack(dataset: ray.data.Dataset) -> Iterator[Any]:
    for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for value in batch["item"]:
            result = pickle.loads(value.as_buffer())  # noqa: S301 - made by our own tasks
            if isinstance(result, LLM360Error):
                raise result
            yield result


class _Many:
    """A function from an item to many, as Ray Data calls it: on a table of pickles."""

    def __init__(self, function: Callable[[Any], Iterable[Any]]) -> None:
        self._function = function
        # Ray names an operator after its function.
        self.__name__ = type(self).__name__

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        # One core is one task's: threads of the tokenizer's own would fight over it.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        for value in batch["item"]:
            item = pickle.loads(value.as_buffer())  # noqa: S301 - made by our own tasks
            if isinstance(item, LLM360Error):
                yield _table(item)
                continue
            try:
                for result in self._function(item):
                    yield _table(result)
            except LLM360Error as error:
                yield _table(error)  # as a value: Ray would wrap what is raised into its own error


class _Each(_Many):
    """A function from an item to one."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(lambda item: (function(item),))


def _table(value: object) -> pa.Table:
    return pa.table({"item": pa.array([pickle.dumps(value)], pa.large_binary())})
