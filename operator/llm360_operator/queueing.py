"""Which run is looked at when: each key at most once in the queue, at most one round of a run at a time.

`Schedule` is the bookkeeping, without clock or tasks; `Queue` runs it. A round says when it wants to be called
again; one that fails is called again after 0.2 s, then twice as long each time, up to a minute.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Awaitable, Callable

from llm360_operator.names import Key

log = logging.getLogger(__name__)

FIRST_BACKOFF_SECONDS = 0.2
LAST_BACKOFF_SECONDS = 60.0
ROUND_SECONDS = 120.0
"""A round that takes longer is given up and counts as failed."""
TICK_SECONDS = 1.0
"""The loop turns at least this often; the age of its last turn is the operator's health."""


class Schedule:
    """Due times of keys. A key that is taken is not given out again until it is done."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._taken: dict[Key, float | None] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._due)

    @property
    def num_taken(self) -> int:
        """Keys that are being worked on."""
        return len(self._taken)

    def num_due(self, now: float) -> int:
        """Keys whose time has come and that nobody has taken."""
        return sum(due <= now for due in self._due.values())

    def add(self, key: Key, due: float) -> None:
        """Ask for a round at a time; an earlier one that is asked for already stands for it."""
        if key in self._taken:
            asked = self._taken[key]
            self._taken[key] = due if asked is None else min(asked, due)
        elif key not in self._due or due < self._due[key]:
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))

    def take(self, now: float) -> Key | None:
        """The key that is due for longest, if one is."""
        self._drop_stale()
        if not self._heap or self._heap[0][0] > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        self._taken[key] = None
        return key

    def done(self, key: Key, due: float | None) -> None:
        """A round is over and wants the next at a time, or none; what was asked for meanwhile counts too."""
        asked = self._taken.pop(key)
        times = [time for time in (asked, due) if time is not None]
        if times:
            self.add(key, min(times))

    def next_due(self) -> float | None:
        """When the next key is due."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def _drop_stale(self) -> None:
        """Remove entries that an earlier time has replaced."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)


Work = Callable[[Key], Awaitable[float | None]]


class Queue:
    """Calls rounds when they are due.

    Args:
        work: One round of a run; returns after how many seconds it wants the next, None for none.
        parallel: Most rounds at a time.
        note_error: Hears of each round that failed.
        clock: Seconds; monotonic.
    """

    def __init__(
        self,
        work: Work,
        *,
        parallel: int = 32,
        note_error: Callable[[Exception], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._parallel, self._note_error, self._clock = work, parallel, note_error, clock
        self._schedule = Schedule()
        self._failures: dict[Key, int] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_tick = clock()

    def __len__(self) -> int:
        return len(self._schedule)

    @property
    def num_waiting(self) -> int:
        """Runs whose round is due and has not begun; later rounds that are planned already do not count."""
        return self._schedule.num_due(self._clock())

    @property
    def age(self) -> float:
        """Seconds since the loop last turned."""
        return self._clock() - self._last_tick

    def add(self, key: Key, delay: float = 0.0) -> None:
        """Ask for a round of a run."""
        self._schedule.add(key, self._clock() + delay)
        self._wake.set()

    async def run(self) -> None:
        """Turn until cancelled; the rounds that are under way are cancelled too."""
        try:
            while True:
                await self.turn()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def turn(self) -> None:
        """Begin what is due, then sleep until something is, or is asked for."""
        self._last_tick = self._clock()
        while self._schedule.num_taken < self._parallel and (key := self._schedule.take(self._clock())):
            task = asyncio.create_task(self._round(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        due = self._schedule.next_due() if self._schedule.num_taken < self._parallel else None
        sleep = TICK_SECONDS if due is None else min(TICK_SECONDS, max(0.0, due - self._clock()))
        try:
            async with asyncio.timeout(sleep):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _round(self, key: Key) -> None:
        wait: float | None = FIRST_BACKOFF_SECONDS
        try:
            async with asyncio.timeout(ROUND_SECONDS):
                wait = await self._work(key)
            self._failures.pop(key, None)
        except Exception as error:
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            wait = backoff(failures)
            self._note_error(error)
            log.warning("run %s/%s: %s; again in %.1f s", key.namespace, key.name, describe(error), wait)
        finally:
            self._schedule.done(key, None if wait is None else self._clock() + wait)
            self._wake.set()


def backoff(failures: int) -> float:
    """Seconds until the next try after a number of failures in a row."""
    return min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 30))


def describe(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
