"""prometheus-client's collectors, made from the catalogue and addressed by a metric's name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from llm360.monitoring.catalogue import Metric


class Collectors:
    """Collectors of the metrics, on a registry of their own.

    Args:
        metrics: From the catalogue.
        common: Labels that every series has, with their values: `{"run": "amber"}`. Metrics without them go without.
    """

    def __init__(self, metrics: Iterable[Metric], common: Mapping[str, str] | None = None) -> None:
        self.registry = CollectorRegistry()
        self._common = dict(common or {})
        # When a counter began is nobody's question here, and would be a second series for each.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._collectors = {metric.name: self._make(metric) for metric in metrics}

    def gauge(self, name: str, **labels: str) -> Gauge:
        """The gauge of that name."""
        return self._child(name, labels)  # type: ignore[no-any-return]

    def counter(self, name: str, **labels: str) -> Counter:
        """The counter of that name."""
        return self._child(name, labels)  # type: ignore[no-any-return]

    def histogram(self, name: str, **labels: str) -> Histogram:
        """The histogram of that name."""
        return self._child(name, labels)  # type: ignore[no-any-return]

    def forget(self, name: str, **labels: str) -> None:
        """Take one series away."""
        metric, collector = self._collectors[name]
        collector.remove(*self._values(metric, labels))

    def clear(self, name: str) -> None:
        """Take all series of a metric away."""
        self._collectors[name][1].clear()

    def _child(self, name: str, labels: Mapping[str, str]) -> Any:
        metric, collector = self._collectors[name]
        return collector.labels(*self._values(metric, labels)) if metric.labels else collector

    def _values(self, metric: Metric, labels: Mapping[str, str]) -> list[str]:
        values = {**self._common, **labels}
        return [values[label] for label in metric.labels]

    def _make(self, metric: Metric) -> tuple[Metric, Any]:
        common: dict[str, Any] = {"labelnames": metric.labels, "registry": self.registry}
        if metric.kind == "histogram":
            made: Any = Histogram(metric.name, metric.help, buckets=metric.buckets, **common)
        else:
            made = {"gauge": Gauge, "counter": Counter}[metric.kind](metric.name, metric.help, **common)
        if metric.kind != "gauge" and metric.labels and set(metric.labels) <= set(self._common):
            made.labels(*self._values(metric, {}))  # 0 from the start, or its first increase would not be seen as one
        return metric, made
