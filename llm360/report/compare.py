"""Runs side by side: a table of where they stand, and their curves over the same axis of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llm360 import __version__
from llm360.errors import InputError
from llm360.release.analyses import AnalysisResults, merged_results
from llm360.release.create import open_release
from llm360.release.metrics import run_table
from llm360.report.analyses import overall_lines
from llm360.report.chart import Chart, Line, line_chart
from llm360.report.facts import RunFacts, read_facts
from llm360.report.page import figure_view, templates
from llm360.report.scores import Curve, score_curves, score_figures
from llm360.report.series import Series, column, smooth, smoothing_reach
from llm360.report.text import short_count
from llm360.storage import Storage


@dataclass(frozen=True)
class ComparedRun:
    """What is compared of a run.

    Attributes:
        name: Tells it from the others.
        facts: Where it stands.
        loss: Smoothed, by tokens.
        curves: Of its evaluations.
        analysed: Its analyses.
    """

    name: str
    facts: RunFacts
    loss: Series
    curves: tuple[Curve, ...]
    analysed: tuple[AnalysisResults, ...]


def read_runs(storages: Sequence[Storage], now: datetime) -> list[ComparedRun]:
    """Read what is compared of each release; runs of one name are told apart by numbers.

    Raises:
        InputError: there is no release, or only one is given.
        IntegrityError: a ledger or a metrics segment is not whole.
    """
    if len(storages) < 2:
        raise InputError("one run alone cannot be compared; give two releases or more, or `llm360 report --compare`")
    runs: list[ComparedRun] = []
    for storage in storages:
        history = open_release(storage).history()
        facts = read_facts(storage, history, now)
        taken = sum(run.facts.name == facts.name for run in runs)
        table = run_table(storage, history)
        analysed, _ = merged_results(storage, history)
        runs.append(
            ComparedRun(
                name=f"{facts.name} ({taken + 1})" if taken else facts.name,
                facts=facts,
                loss=smooth(Series(column(table, "tokens"), column(table, "loss")), smoothing_reach(table.num_rows)),
                curves=tuple(score_curves(history)),
                analysed=tuple(analysed),
            )
        )
    return runs


def compared_figures(runs: Sequence[ComparedRun], published: Sequence[str] = ()) -> list[Chart]:
    """Loss, every task's score and every analysis's overall value, a line for each run."""
    losses = [Line(run.name, run.loss, number) for number, run in enumerate(runs) if len(run.loss.x)]
    caption = "Mean over each step's tokens, in nats, smoothed. Losses of different data or tokenizers do not compare."
    loss = [line_chart("loss", "Loss (nats)", losses, caption=caption, x_label="tokens")] if losses else []
    scores = score_figures({run.name: run.curves for run in runs}, published)
    return [*loss, *scores, *overall_lines({run.name: run.analysed for run in runs})]


def compared_rows(runs: Sequence[ComparedRun]) -> list[tuple[str, tuple[str, ...]]]:
    """What stands in the table: a label, and a value for each run."""
    facts = [run.facts for run in runs]
    rows: list[tuple[str, tuple[str, ...]]] = [
        ("preset", tuple(f.preset or "none" for f in facts)),
        ("phase", tuple(f.phase for f in facts)),
        ("steps", tuple(f"{f.step:,}" for f in facts)),
        ("tokens", tuple(short_count(f.tokens) for f in facts)),
        ("loss, last steps", tuple("" if f.recent_loss is None else f"{f.recent_loss:.3f}" for f in facts)),
        ("checkpoints", tuple(f"{f.checkpoints}" for f in facts)),
        ("configuration", tuple(f.config_digest.removeprefix("sha256:")[:12] for f in facts)),
    ]
    known = sorted({_settings(curve) for run in runs for curve in run.curves})
    rows += [(settings, tuple(_last_score(run, settings) for run in runs)) for settings in known]
    return rows


def compared_page(runs: Sequence[ComparedRun], published: Sequence[str] = ()) -> str:
    """The page, as HTML that loads nothing."""
    return (
        templates()
        .get_template("compare.html.j2")
        .render(
            version=__version__,
            names=[run.name for run in runs],
            rows=compared_rows(runs),
            figures=[figure_view(figure) for figure in compared_figures(runs, published)],
        )
    )


def to_json(runs: Sequence[ComparedRun]) -> list[dict[str, Any]]:
    """The runs' facts and scores for programs."""
    return [
        {
            "name": run.name,
            **{name: value for name, value in run.facts.to_json().items() if name != "name"},
            "scores": [{**vars(curve), "points": [vars(point) for point in curve.points]} for curve in run.curves],
        }
        for run in runs
    ]


def _settings(curve: Curve) -> str:
    shots = "" if curve.shots is None else f", {curve.shots} shots"
    limit = "" if curve.limit is None else f", limit {curve.limit}"
    seed = "" if curve.seed is None else f", seed {curve.seed}"
    return f"{curve.task} {curve.metric}{shots}{limit}{seed}" + (f" ({curve.harness})" if curve.harness else "")


def _last_score(run: ComparedRun, settings: str) -> str:
    found = [curve.points[-1] for curve in run.curves if _settings(curve) == settings]
    if not found:
        return ""
    error = "" if found[0].stderr is None else f" ±{found[0].stderr:.4f}"
    return f"{found[0].value:.4f}{error} at {short_count(found[0].tokens)}"
