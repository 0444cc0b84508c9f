"""The reference page of all metrics, written from the catalogue: `docs/reference/metrics.md`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from llm360.monitoring.catalogue import LIVE, OPERATOR, RUN, STEPS, Metric

_INTRODUCTION = """\
# Metrics

<!-- Written by `python -m llm360.monitoring.generate`; do not edit. -->

Prometheus scrapes the driver of each run (port 9360 of the head) and the operator (port 8080), both at `/metrics`.
The ranks report to the driver, so all series of a training come from one place. Prometheus adds where a series came
from (`namespace`, `pod`, `instance`, `job`). Counters begin at 0 with each driver.
[How to use them](../how-to/monitoring.md).

No label ever holds a step, so the number of series does not grow with a run's length: one driver has about fifty, one
more for each source and metric by source, and four for each rank.
"""

_STEPS = "From the record of each step. `llm360 metrics URI --format openmetrics` gives all of them again, years later."
_OPERATOR = """\
`llm360_run_phase` is there whether or not a run has pods. Its `namespace` is the run's: let Prometheus honour the label
(the chart's ServiceMonitor does), or it becomes `exported_namespace`. Scores are also in the replay."""

_SECTIONS: tuple[tuple[str, str, tuple[Metric, ...]], ...] = (
    ("Of every step", _STEPS, STEPS),
    ("Of the run", "From the ledger's entries; also in the replay.", RUN),
    ("While it runs", "What only the running driver knows. `rank` is the number of a worker.", LIVE),
    ("Of the operator", _OPERATOR, OPERATOR),
)


def reference_page() -> str:
    """The page in Markdown."""
    return "\n".join([_INTRODUCTION, *_lines()])


def _lines() -> Iterator[str]:
    for title, text, metrics in _SECTIONS:
        yield f"## {title}\n\n{text}\n"
        yield from _table(metrics)
        yield ""


def _table(metrics: Iterable[Metric]) -> Iterator[str]:
    yield "| metric | kind | labels | meaning |\n|---|---|---|---|"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help}{_buckets(metric)} |"


def _buckets(metric: Metric) -> str:
    return f" Buckets: {', '.join(f'{bound:g}' for bound in metric.buckets)}." if metric.buckets else ""
