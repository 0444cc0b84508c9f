"""What a rank tells watchers of itself: how long it keeps the others waiting, and its memory.

All ranks leave a step together, at its last all-reduce, and each enters the next when it is ready. So the time
between is the rank's own, and the rank with the most of it is the one that all others wait for.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch

from llm360_trainer.train.plan import WorkerReport

REPORT_SECONDS = 5.0
"""A rank reports at most this often: more would tell a scraper nothing, and many ranks talk to one recorder."""


class Watch:
    """Takes a rank's times and reports them now and then.

    Args:
        rank: Its number.
        device: What it computes on.
        send: Hands a report over without waiting.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        rank: int,
        device: torch.device,
        send: Callable[[WorkerReport], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._rank, self._device, self._send, self._clock = rank, device, send, clock
        self._own_seconds = self._data_wait_seconds = 0.0
        self._last_sent = float("-inf")
        self.begin()

    def begin(self) -> None:
        """The steps of an attempt begin: what was before, loading, is not counted."""
        self._last_end = self._clock()

    def step_begins(self, data_wait_seconds: float) -> None:
        """The rank has its rows, for which it waited so long, and enters the step."""
        self._own_seconds += self._clock() - self._last_end
        self._data_wait_seconds += data_wait_seconds

    def step_ended(self) -> None:
        """The step's last all-reduce is over."""
        now = self._clock()
        seconds, self._last_end = now - self._last_end, now
        if now - self._last_sent < REPORT_SECONDS:
            return
        memory = peak_memory_bytes(self._device)
        self._send(WorkerReport(self._rank, seconds, self._own_seconds, self._data_wait_seconds, memory))
        self._own_seconds = self._data_wait_seconds = 0.0
        self._last_sent = now


def peak_memory_bytes(device: torch.device) -> int:
    """Peak memory of this process so far: of the device, or resident where that is a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
