"""The operator's Prometheus metrics, from the catalogue of the core."""

from __future__ import annotations

from collections import Counter as Count

from llm360.monitoring.catalogue import OPERATOR
from llm360.monitoring.collectors import Collectors
from llm360.spec.status import PHASES
from llm360_operator.names import Key


class Metrics:
    """All series on a registry of their own."""

    def __init__(self) -> None:
        self._collectors = Collectors(OPERATOR)
        self.registry = self._collectors.registry
        self.round_seconds = self._collectors.histogram("llm360_operator_reconcile_seconds")
        self.decision_seconds = self._collectors.histogram("llm360_operator_decision_seconds")
        self.queue_length = self._collectors.gauge("llm360_operator_queue_length")
        self.tick_age = self._collectors.gauge("llm360_operator_tick_age_seconds")
        self._phases: dict[Key, tuple[str, str]] = {}

    def count_request(self, verb: str, kind: str, code: int) -> None:
        """Note a request to the Kubernetes API."""
        self._collectors.counter("llm360_operator_api_requests_total", verb=verb, kind=kind, code=str(code)).inc()

    def count_error(self, error: Exception) -> None:
        """Note a round that failed; the reason is the error's class."""
        self._collectors.counter("llm360_operator_errors_total", reason=type(error).__name__).inc()

    def note_phase(self, key: Key, phase: str | None, reason: str = "") -> None:
        """Note where a run stands and why; no phase: it is gone."""
        before = self._phases.pop(key, None)
        if phase is not None:
            self._phases[key] = (phase, reason)
        if before == self._phases.get(key):
            return
        if before is not None:
            self._collectors.forget("llm360_run_phase", **_labels(key, *before))
        if phase is not None:
            self._collectors.gauge("llm360_run_phase", **_labels(key, phase, reason)).set(1)
        counts = Count(known for known, _ in self._phases.values())
        for known in PHASES:
            self._collectors.gauge("llm360_operator_runs", phase=known).set(counts[known])


def _labels(key: Key, phase: str, reason: str) -> dict[str, str]:
    return {"namespace": key.namespace, "run": key.name, "phase": phase, "reason": reason}
