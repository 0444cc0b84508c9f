"""Says what is waited for on a Ray cluster: Ray itself waits for ever, and silently, since nodes may join."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping

import ray

from llm360.report.text import counted

FIRST_SECONDS = 30.0
"""Nodes that are there already give their workers within seconds; after so long somebody wonders."""
AGAIN_SECONDS = 60.0
"""Then it is said again so often, for whoever looks at a log's end."""
LOOK_SECONDS = 5.0
"""How often Ray is asked whether something waits."""
POLL_SECONDS = 1.0
"""How long a signal may go unnoticed meanwhile."""


class Waiting:
    """Says now and then that something waits, and for what.

    Args:
        describe: From the seconds that it has lasted to a sentence for a person.
        say: Takes the sentence.
        is_waiting: Whether Ray has no place yet for what was asked.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        describe: Callable[[float], str],
        say: Callable[[str], object],
        is_waiting: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._describe, self._say, self._is_waiting, self._clock = describe, say, is_waiting, clock
        self._next_look = -float("inf")
        self._since: float | None = None
        self._next_sentence = 0.0

    def look(self) -> None:
        """See whether it waits, unless that was seen a moment ago, and say so where it takes long."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_SECONDS
        if not self._is_waiting():
            self._since = None
            return
        if self._since is None:
            self._since, self._next_sentence = now, now + FIRST_SECONDS
        if now >= self._next_sentence:
            self._next_sentence = now + AGAIN_SECONDS
            self._say(self._describe(now - self._since))


def wait_for_processor(say: Callable[[str], object]) -> None:
    """Return once the cluster has a free processor for a task, and say meanwhile what is waited for."""
    if ray.available_resources().get("CPU", 0) >= 1:
        return
    probe = ray.remote(num_cpus=1)(_nothing).remote()
    waiting = Waiting(describe_no_processor, say, lambda: True)
    while not ray.wait([probe], timeout=POLL_SECONDS)[0]:
        waiting.look()


def _nothing() -> None:
    """Run where a processor is free."""


def describe_no_processor(seconds: float) -> str:
    """One sentence of a preparation that has waited for so many seconds."""
    has = describe_resources(("CPU",), ray.cluster_resources(), ray.available_resources())
    return (
        f"waiting for {seconds:.0f} s for a free CPU; the cluster has {has}; the preparation goes on when nodes join or"
        " become free"
    )


def describe_resources(kinds: Iterable[str], there: Mapping[str, float], free: Mapping[str, float]) -> str:
    """How much a cluster has: `0 GPUs (0 free), 16 CPUs (12 free)`.

    Args:
        kinds: Of resources, by Ray's names.
        there: All of the cluster's.
        free: Those of them that nobody uses.
    """
    return ", ".join(f"{counted(int(there.get(kind, 0)), kind)} ({int(free.get(kind, 0))} free)" for kind in kinds)
