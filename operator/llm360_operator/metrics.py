"""The operator's Prometheus metrics. Labels are bounded: verbs, kinds, codes and phases, never a run's name."""

from __future__ import annotations

from collections import Counter as Count

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from llm360.spec.status import PHASES
from llm360_operator.names import Key

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """All series on a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "llm360_operator_api_requests",
            "Requests to the Kubernetes API, by verb, kind and the answer's code.",
            ["verb", "kind", "code"],
            registry=self.registry,
        )
        self.round_seconds = Histogram(
            "llm360_operator_round_seconds", "Wall time of a round of a run.", buckets=SECONDS, registry=self.registry
        )
        self.decision_seconds = Histogram(
            "llm360_operator_decision_seconds",
            "CPU time of deciding what to do.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.queue_length = Gauge("llm360_operator_queue_length", "Runs that wait.", registry=self.registry)
        self.tick_age = Gauge(
            "llm360_operator_tick_age_seconds", "Seconds since the queue's loop last turned.", registry=self.registry
        )
        self._runs = Gauge("llm360_operator_runs", "Runs by phase.", ["phase"], registry=self.registry)
        self._phases: dict[Key, str] = {}

    def count_request(self, verb: str, kind: str, code: int) -> None:
        """Note a request to the Kubernetes API."""
        self._requests.labels(verb, kind, str(code)).inc()

    def note_phase(self, key: Key, phase: str | None) -> None:
        """Note where a run stands; None: it is gone."""
        if phase is None:
            self._phases.pop(key, None)
        else:
            self._phases[key] = phase
        counts = Count(self._phases.values())
        for known in PHASES:
            self._runs.labels(known).set(counts[known])
