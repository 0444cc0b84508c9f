"""Figures of evaluations: each task's score over tokens, a band of one standard error, what others published behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from llm360.release.entries import Eval
from llm360.release.history import History
from llm360.report.chart import Chart, Line, line_chart
from llm360.report.published import PublishedScore, all_published
from llm360.report.series import Series

# Of a task's metrics the first that it has is drawn; all are in the results.
PREFERRED = ("acc_norm", "acc", "exact_match", "pass@1", "pass_at_1", "f1", "bleu_acc", "word_perplexity", "perplexity")

# Metrics that are no shares of 1.
NOT_SHARES = ("perplexity", "bits_per_byte", "pct", "loss")


@dataclass(frozen=True)
class Point:
    """A score of a checkpoint."""

    tokens: int
    value: float
    stderr: float | None


@dataclass(frozen=True)
class Curve:
    """Scores that may stand side by side: one metric by one harness with the same settings.

    Attributes:
        task: As the harness names it.
        metric: Likewise.
        shots, harness, limit, seed: As the entries say; None: the harness's own.
        points: By tokens.
    """

    task: str
    metric: str
    shots: int | None
    harness: str | None
    limit: int | None
    seed: int | None
    points: tuple[Point, ...]


def score_curves(history: History) -> list[Curve]:
    """The run's scores, the newest of each checkpoint; other harnesses, shots, limits or seeds are other curves.

    Only checkpoints that are still the run's count; a task's metric is the first of `PREFERRED`, or its first.
    """
    tokens = {checkpoint.name: checkpoint.body.tokens for checkpoint in history.branch}
    found: dict[tuple[str, str, int | None, str | None, int | None, int | None], dict[int, Point]] = {}
    for body in history.evals:
        if body.checkpoint not in tokens or not body.scores:
            continue
        for metric in _drawn_metrics(body):
            score = next(score for score in body.scores if score.metric == metric)
            at = tokens[body.checkpoint]
            key = (body.task, metric, body.shots, body.harness, body.limit, body.seed)
            found.setdefault(key, {})[at] = Point(at, score.value, score.stderr)
    return [
        Curve(*key, points=tuple(points[at] for at in sorted(points)))
        for key, points in sorted(found.items(), key=lambda item: tuple(map(str, item[0])))
    ]


def _drawn_metrics(body: Eval) -> list[str]:
    """The metric to draw; of a group that has only its tasks' scores (`task/metric`) one of each."""
    metrics = [score.metric for score in body.scores or ()]
    by_task: dict[str, list[str]] = {}
    for metric in metrics:
        by_task.setdefault(metric.rpartition("/")[0], []).append(metric)
    return [_preferred(names) for names in by_task.values()]


def _preferred(metrics: Sequence[str]) -> str:
    def rank(metric: str) -> int:
        name = metric.rpartition("/")[2].partition(",")[0]
        return PREFERRED.index(name) if name in PREFERRED else len(PREFERRED)

    return min(metrics, key=rank)


def score_figures(runs: Mapping[str, Sequence[Curve]], compare: Sequence[str] = ()) -> list[Chart]:
    """A chart per task and metric.

    Args:
        runs: Curves by the run's name; the name is left out of the legend where there is one run.
        compare: Models whose published scores are drawn behind.
    """
    tasks = sorted({(curve.task, curve.metric) for curves in runs.values() for curve in curves})
    return [_chart(task, metric, runs, compare) for task, metric in tasks]


def _chart(task: str, metric: str, runs: Mapping[str, Sequence[Curve]], compare: Sequence[str]) -> Chart:
    is_share = not any(word in metric for word in NOT_SHARES)
    factor = 100.0 if is_share else 1.0
    chosen = [
        (name, curve)
        for name, curves in runs.items()
        for curve in curves
        if (curve.task, curve.metric) == (task, metric)
    ]
    labels = _labels(chosen, len(runs) > 1)
    lines = [
        _line(label, curve.points, number, factor)
        for number, (label, (_, curve)) in enumerate(zip(labels, chosen, strict=True))
    ]
    own_shots = {curve.shots for _, curve in chosen}
    sources = []
    for model in compare:
        published = _comparable(
            [s for s in all_published() if (s.model, s.task, s.metric) == (model, task, metric)], own_shots
        )
        for shots in sorted({s.shots for s in published}, key=str):
            name = f"{model}, published" + ("" if shots is None else f", {shots} shots")
            points = [Point(s.tokens, s.value, None) for s in published if s.shots == shots]
            lines.append(replace(_line(name, points, len(lines), factor), role="published"))
        if published:
            sources.append(f"{model}: {_sources(published)}.")
    bands = ["Bands: one standard error to either side."] if any(line.error is not None for line in lines) else []
    key = f"eval-{task}-{metric}".replace("/", "-").replace(",", "-").replace("@", "-")
    title = f"{task}: {metric}" + (" (%)" if is_share else "")
    x_log = _is_far_apart(lines)
    x_label = "tokens, by their logarithm" if x_log else "tokens"
    return line_chart(key, title, lines, caption=" ".join([*bands, *sources]), x_label=x_label, x_log=x_log)


def _comparable(published: Sequence[PublishedScore], own_shots: Set[int | None]) -> Sequence[PublishedScore]:
    """Those with the run's own number of shots, where there are any."""
    alike = [score for score in published if score.shots in own_shots]
    return alike or published


def _is_far_apart(lines: Sequence[Line]) -> bool:
    """Whether one curve is so much shorter than another that a linear axis would show it as a dot."""
    ends = [float(line.series.x.max()) for line in lines if len(line.series.x)]
    return len(ends) > 1 and 0 < min(ends) < 0.1 * max(ends)


def _line(name: str, points: Sequence[Point], color: int, factor: float) -> Line:
    """A curve of the run's own; its band is where standard errors are known."""
    x = np.array([point.tokens for point in points], dtype=np.float64)
    y = np.array([factor * point.value for point in points])
    errors = np.array([np.nan if point.stderr is None else factor * point.stderr for point in points])
    return Line(name, Series(x, y), color, error=errors if np.isfinite(errors).any() else None)


def _labels(chosen: Sequence[tuple[str, Curve]], several_runs: bool) -> list[str]:
    """What tells each curve from the others: always its shots, the rest only where it differs."""
    fields = [name for name in ("harness", "limit", "seed") if len({getattr(curve, name) for _, curve in chosen}) > 1]
    labels = []
    for run, curve in chosen:
        parts = [run] if several_runs else []
        parts += [f"{curve.shots} shots" if curve.shots is not None else "the task's own shots"]
        parts += [f"{name} {getattr(curve, name)}" for name in fields if getattr(curve, name) is not None]
        labels.append(", ".join(parts))
    return labels


def _sources(scores: Sequence[PublishedScore]) -> str:
    """Where a model's scores are from, and how they were read."""
    kinds = " and ".join(sorted({score.kind for score in scores}))
    sources = [source for source, _ in Counter(score.source for score in scores).most_common()]
    more = f" and {len(sources) - 2} more" if len(sources) > 2 else ""
    return f"published, {kinds}, in {'; '.join(sources[:2])}{more}"
