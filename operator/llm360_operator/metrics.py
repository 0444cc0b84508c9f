"""The operator's Prometheus metrics, from the catalogue of the core."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Mapping, Sequence
from typing import Any

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
        self._evaluations: dict[Key, dict[tuple[str, ...], float]] = {}

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

    def note_evaluation(self, key: Key, evaluation: Mapping[str, Any] | None) -> None:
        """Note what a run's status says of its evaluations; nothing: there are none, or the run is gone."""
        evaluation = evaluation or {}
        place = {"namespace": key.namespace, "run": key.name}
        now: dict[tuple[str, ...], float] = {}
        for state in ("done", "running", "waiting", "failed"):
            if state in evaluation:
                now["llm360_run_evaluations", state] = evaluation[state]
        for score in evaluation.get("scores") or ():
            for field, name in _SCORES.items():
                if field in score:
                    now[name, score["task"], score["metric"]] = score[field]
        for name, *labels in self._evaluations.get(key, {}).keys() - now.keys():
            self._collectors.forget(name, **place, **_named(labels))
        for (name, *labels), value in now.items():
            self._collectors.gauge(name, **place, **_named(labels)).set(value)
        self._evaluations[key] = now
        if not now:
            del self._evaluations[key]


_SCORES = {"value": "llm360_evaluation_score", "step": "llm360_evaluation_score_step"}
"""Fields of a score, each with its metric."""


def _named(labels: Sequence[str]) -> dict[str, str]:
    return dict(zip(("task", "metric") if len(labels) == 2 else ("state",), labels, strict=True))


def _labels(key: Key, phase: str, reason: str) -> dict[str, str]:
    return {"namespace": key.namespace, "run": key.name, "phase": phase, "reason": reason}
