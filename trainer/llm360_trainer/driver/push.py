"""Pushes a run's metrics to a Prometheus Pushgateway, for machines that no Prometheus can reach.

Watching must never stop or slow the training: a gateway that is gone, hangs or refuses is said once, asked again at
the next turn, and nothing else follows from it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from prometheus_client import CollectorRegistry, push_to_gateway

PUSH_SECONDS = 15.0
"""Between two pushes; as often as Prometheus scrapes by default."""

ANSWER_SECONDS = 5.0
"""A gateway that has not answered by then is taken to be gone."""

CLOSE_SECONDS = 2 * ANSWER_SECONDS
"""The last push may have to wait for the one before."""

JOB = "llm360"
"""Group of all runs in the gateway; within it each run has its own, by the label `run`."""


class MetricsPush:
    """Pushes from a thread of its own until closed.

    Args:
        url: Of the Pushgateway.
        run: The run's name: its group in the gateway, which each push replaces whole.
        registry: The collectors whose values are pushed.
        say: Takes a sentence for a person.
    """

    def __init__(self, url: str, run: str, registry: CollectorRegistry, say: Callable[[str], None]) -> None:
        self._url, self._run, self._registry, self._say = url, run, registry, say
        self._is_gone = False
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._push_on, name="metrics-push", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Push what is now a last time; waits no longer than `CLOSE_SECONDS` for it."""
        self._over.set()
        self._thread.join(CLOSE_SECONDS)

    def _push_on(self) -> None:
        while True:
            is_last = self._over.is_set()
            self._push()
            if is_last:
                return
            self._over.wait(PUSH_SECONDS)

    def _push(self) -> None:
        try:
            push_to_gateway(self._url, JOB, self._registry, {"run": self._run}, timeout=ANSWER_SECONDS)
        except Exception as error:  # whatever it is, it is not worth a training
            if not self._is_gone:
                self._say(f"metrics cannot be pushed to {self._url}: {error}; training goes on")
            self._is_gone = True
        else:
            if self._is_gone:
                self._say(f"metrics are pushed to {self._url} again")
            self._is_gone = False
