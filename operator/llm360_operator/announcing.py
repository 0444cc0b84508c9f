"""Kubernetes events of runs: what a person should hear of, written behind the rounds.

A round neither waits for an event nor fails with one: where a namespace's quota takes no more, or the API server is
busy with a thousand runs at once, the runs go on. One is written at a time, in the order in which they were said; those
that wait when the operator is killed are lost, as no event ever is a record: what holds is the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from llm360_operator.api import ApiError, Object
from llm360_operator.seen import write_time

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
"""Events, of about a kilobyte each; what is said beyond is dropped."""
TRIES = 6
FIRST_PAUSE_SECONDS = 1.0
"""Before an event is tried again to which the API server gave no answer; then twice as long each time."""
FINISH_SECONDS = 5.0
"""How long an operator that is stopped may take to write what waits."""
MOST_CHARACTERS = 1024
"""Of an event's message: as many as Kubernetes takes in its newer kind of events (events.k8s.io/v1)."""

NO_ANSWER = (0, 429, 500, 502, 503, 504)
"""Codes of the API server after which it may well take the same event."""


class Announcer:
    """Writes events.

    Args:
        create: Makes an object; None where one of its name is there already.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        create: Callable[[Object], Awaitable[Object | None]],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._create, self._pause = create, pause
        self._waiting: asyncio.Queue[Object] = asyncio.Queue(MOST_WAITING)

    def say(self, run: Object, entry: Mapping[str, Any], now: datetime, *, is_bad: bool) -> None:
        """Have it said what a condition of a run says now."""
        said = event(run, entry, now, is_bad=is_bad)
        try:
            self._waiting.put_nowait(said)
        except asyncio.QueueFull:
            log.warning("%s: dropped, for %d wait already", _title(said), MOST_WAITING)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            said = await self._waiting.get()
            try:
                await self._write(said)
            finally:
                self._waiting.task_done()

    async def finish(self) -> None:
        """Wait until all is written, but not for long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FINISH_SECONDS):
                await self._waiting.join()

    async def _write(self, said: Object) -> None:
        for attempt in range(1, TRIES + 1):
            try:
                await self._create(said)  # its name is its own: one that was made without our hearing of it is found
                return
            except Exception as error:  # whatever it is, the next one is written
                if attempt == TRIES or not (isinstance(error, ApiError) and error.status in NO_ANSWER):
                    log.warning("%s: not written: %s", _title(said), error)
                    return
            await self._pause(FIRST_PAUSE_SECONDS * 2.0 ** (attempt - 1))


def event(run: Object, entry: Mapping[str, Any], now: datetime, *, is_bad: bool) -> Object:
    """A Kubernetes event that says what a condition of a run says now."""
    metadata = run["metadata"]
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex[:16]}", "namespace": metadata["namespace"]},
        "involvedObject": {key: run[key] for key in ("apiVersion", "kind")}
        | {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
        "type": "Warning" if is_bad else "Normal",
        "reason": entry["reason"],
        "message": entry["message"][:MOST_CHARACTERS],
        "source": {"component": "llm360-operator"},
        "firstTimestamp": write_time(now),
        "lastTimestamp": write_time(now),
        "count": 1,
    }


def _title(said: Object) -> str:
    about = said["involvedObject"]
    return f"run {about['namespace']}/{about['name']}: event {said['reason']}"
