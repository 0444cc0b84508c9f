"""What a dashboard is made of, and the forms of PromQL that its queries take; boards.py has the four dashboards.

A pod that is made again gives new series, so queries come down to one series for a run. `$namespace` and `$run` are
the dashboard's variables, `$__rate_interval` and `$__range` Grafana's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Query:
    """PromQL, and the name of each line that it gives (`{{label}}` is replaced)."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: On top of it.
        unit: Grafana's name of the unit.
        description: What one reads from it; behind the panel's `i`.
        queries: In their order.
        kind: A chart over time, or one number.
        width: Of 24.
        height: In Grafana's units, about 30 pixels.
    """

    title: str
    unit: str
    description: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 12
    height: int = 8


@dataclass(frozen=True)
class Board:
    """One dashboard.

    Attributes:
        uid: Its identity in Grafana, and its file's name.
        title: On top of it.
        description: For the list of dashboards.
        rows: Headings, each with its panels.
        variables: `namespace` and `run`, as far as its queries have them; each with the query of its values.
        annotations: Vertical lines: name and query.
    """

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()


RUN = 'namespace=~"$namespace",run=~"$run"'
NAMESPACE = 'namespace=~"$namespace"'
RATE = "[$__rate_interval]"


def last(metric: str, by: str = "run", select: str = RUN) -> str:
    """The metric's value, one for each of `by`."""
    return f"max by ({by}) ({metric}{{{select}}})"


def risen(metric: str) -> str:
    """There for a minute after the metric has risen, however seldom it is scraped."""
    return f"{last(metric)} > max by (run) ({metric}{{{RUN}}} offset 1m)"


def rate(metric: str, by: str = "run", select: str = RUN) -> str:
    """The counter's increase per second, one for each of `by`."""
    return f"sum by ({by}) (rate({metric}{{{select}}}{RATE}))"


def quantile(q: float, metric: str, by: str = "", select: str = "") -> str:
    """A quantile of the histogram's observations."""
    groups = ", ".join(filter(None, ["le", by]))
    return f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{select}}}{RATE})))"
