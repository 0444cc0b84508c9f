"""The report's charts: which series each one shows, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from llm360.release.history import History
from llm360.report.chart import Axis, Chart, Line, Mark, Tick, area_chart, line_chart, number_label
from llm360.report.series import Floats, Series, column, map_columns, mixture, smooth, smoothing_reach
from llm360.report.tables import attempt_rows
from llm360.report.text import counted, duration

# A gradient norm that spans more than this factor is drawn by its logarithm.
LOG_FACTOR = 30.0

# Charts that show a line per source show at most this many: those with the most tokens.
MAX_SOURCES = 14


@dataclass(frozen=True)
class Reference:
    """A constant to compare the loss with, over a stage's steps."""

    first_step: int
    last_step: int
    value: float


@dataclass(frozen=True)
class RunData:
    """What the charts are made of.

    Args:
        table: The run's step records, by step.
        everything: All step records, those that were taken back included, in the ledger's order.
        history: For the marks.
        unigram: Entropy of the label tokens' distribution, of each stage whose manifest could be read.
    """

    table: pa.Table
    everything: pa.Table
    history: History
    unigram: tuple[Reference, ...]


def figures(run: RunData) -> list[Chart]:
    """All charts, in the order of the page; none where no step is committed."""
    if not run.table.num_rows:
        return []
    steps = column(run.table, "step")
    span = (0.0, float(steps[-1]))
    marks = marks_of(run.history)
    charts = [
        loss_chart(run, steps, span, marks),
        source_loss_chart(run, steps, span, marks),
        mixture_chart(run, steps, span, marks),
        learning_rate_chart(run, steps, span, marks),
        gradient_chart(run, steps, span, marks),
        throughput_chart(run, steps, span, marks),
        utilisation_chart(run, steps, span, marks),
        waiting_chart(run, steps, span, marks),
        time_chart(run),
    ]
    return [chart for chart in charts if chart is not None]


def marks_of(history: History) -> list[Mark]:
    """Restarts, stages after the first, and skipped steps, each at its step."""
    marks = [
        Mark(
            float(row.step),
            "restart",
            str(row.attempt),
            f"attempt {row.attempt} resumes from {row.resumed} (step {row.step:,})",
        )
        for row in attempt_rows(history)[1:]
    ]
    marks += [
        Mark(float(stage.step), "stage", stage.name, f"stage '{stage.name}' begins after step {stage.step:,}")
        for stage in history.stages[1:]
    ]
    first_step = {stage.stage: stage.step for stage in history.stages}
    marks += [
        Mark(float(first_step.get(skip.stage, 0) + step + 1), "skip", "", f"skipped: {skip.reason}")
        for skip in history.skips
        for step in skip.steps
    ]
    return marks


def _raw_and_smooth(steps: Floats, values: Floats, name: str, color: int = 0) -> list[Line]:
    series = Series(steps, values)
    reach = smoothing_reach(len(steps))
    return [
        Line("each step", series, color, "raw"),
        Line(f"{name}, mean of ±{counted(reach, 'step')}", smooth(series, reach), color),
    ]


def loss_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart:
    """The loss, smoothed over every step's, against the best that knowing frequencies alone can do."""
    losses = column(run.table, "loss")
    references = [
        Line(
            "unigram entropy",
            Series(np.array([r.first_step, min(r.last_step, span[1])]), np.full(2, r.value)),
            1,
            "reference",
        )
        for r in run.unigram
        if r.first_step < span[1]
    ]
    notes = []
    if bad := int((~np.isfinite(losses)).sum()):
        notes.append(f"{counted(bad, 'step')} with a loss that is not finite; not drawn")
    caption = "Mean over each step's tokens, in nats."
    if references:
        caption += (
            " The dashed line is the entropy of the data's tokens taken one by one: what a model reaches that knows how"
            " often each occurs, and nothing else."
        )
    lines = [*_raw_and_smooth(steps, losses, "loss"), *references]
    return line_chart("loss", "Loss (nats)", lines, caption=caption, marks=marks, x_range=span, notes=notes)


def source_loss_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart | None:
    """The smoothed loss on each source's tokens."""
    losses = map_columns(run.table, "source_loss")
    tokens = {name: float(np.nansum(values)) for name, values in map_columns(run.table, "source_tokens").items()}
    shown = sorted(sorted(losses, key=lambda name: -tokens.get(name, 0.0))[:MAX_SOURCES])
    reach = smoothing_reach(len(steps))
    lines = [Line(name, smooth(Series(steps, losses[name]), reach), i) for i, name in enumerate(shown)]
    notes = []
    if left_out := len(losses) - len(shown):
        notes.append(f"{counted(left_out, 'source')} with fewer tokens not shown")
    if not lines:
        return None
    caption = f"Mean over each source's tokens, smoothed over ±{counted(reach, 'step')}."
    title = "Loss by source (nats)"
    return line_chart("source-loss", title, lines, caption=caption, marks=marks, x_range=span, notes=notes)


def mixture_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart | None:
    """Shares of the tokens by source."""
    shares = mixture(steps, map_columns(run.table, "source_tokens"))
    if not shares.shares:
        return None
    caption = f"Share of the tokens that each source gave, in {counted(len(shares.edges) - 1, 'interval')} of the run."
    return area_chart("mixture", "Mixture", shares, caption=caption, marks=marks, x_range=span)


def learning_rate_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart:
    """The rate that each step used."""
    rates = column(run.table, "learning_rate")
    caption = f"The rate that each step used; the greatest is {np.nanmax(rates):.3g}."
    lines = [Line("learning rate", Series(steps, rates))]
    return line_chart("learning-rate", "Learning rate", lines, caption=caption, marks=marks, x_range=span, zero=True)


def gradient_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart:
    """The global norm before clipping."""
    norms = column(run.table, "grad_norm")
    positive = norms[np.isfinite(norms) & (norms > 0)]
    log = bool(len(positive)) and float(positive.max() / positive.min()) > LOG_FACTOR
    caption = "Global L2 norm before clipping" + (", by its logarithm." if log else ".")
    lines = _raw_and_smooth(steps, norms, "norm")
    return line_chart(
        "grad-norm", "Gradient norm", lines, caption=caption, marks=marks, x_range=span, zero=not log, log=log
    )


def throughput_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart:
    """Tokens per second of all workers together."""
    rates = column(run.table, "tokens_per_second")
    caption = f"Over all workers; the median is {np.nanmedian(rates):,.0f} tokens/s."
    lines = _raw_and_smooth(steps, rates, "tokens/s")
    title = "Throughput (tokens/s)"
    return line_chart("throughput", title, lines, caption=caption, marks=marks, x_range=span, zero=True)


def utilisation_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart | None:
    """Model FLOPs utilisation, where the device's peak is known."""
    mfu = 100 * column(run.table, "mfu")
    if not np.isfinite(mfu).any():
        return None
    caption = f"Model FLOPs utilisation; the median is {np.nanmedian(mfu):.1f}%."
    lines = _raw_and_smooth(steps, mfu, "MFU")
    return line_chart("mfu", "MFU (%)", lines, caption=caption, marks=marks, x_range=span, zero=True)


def waiting_chart(run: RunData, steps: Floats, span: tuple[float, float], marks: Sequence[Mark]) -> Chart:
    """Which part of the time went into waiting rather than training."""
    seconds = column(run.table, "step_seconds")
    total = max(float(np.nansum(seconds)), 1e-9)
    reach = smoothing_reach(len(steps))
    lines, parts = [], []
    for color, (name, field) in enumerate([("data", "data_wait_seconds"), ("checkpoint", "checkpoint_stall_seconds")]):
        waits = column(run.table, field)
        # Shares of a window's time, not the mean of shares: a long step counts for as long as it was.
        share = 100 * smooth(Series(steps, waits), reach).y / np.maximum(smooth(Series(steps, seconds), reach).y, 1e-9)
        lines.append(
            Line(f"waiting for {'data' if field.startswith('data') else 'a checkpoint'}", Series(steps, share), color)
        )
        parts.append(f"{name} {100 * float(np.nansum(waits)) / total:.2f}%")
    caption = f"Part of the steps' time, smoothed over ±{counted(reach, 'step')}. Of the whole run: {', '.join(parts)}."
    return line_chart("waiting", "Waiting (% of time)", lines, caption=caption, marks=marks, x_range=span, zero=True)


def time_chart(run: RunData) -> Chart:
    """Steps against the clock: restarts show as gaps, work that was done again as lines beside the run's."""
    times = run.everything["time"].to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    elapsed = times - times.min()
    steps, attempts = column(run.everything, "step"), column(run.everything, "attempt")
    kept = np.isin(_identity(run.everything), _identity(run.table))
    lines = []
    for attempt in np.unique(attempts):
        for color, name, chosen in ((0, "the run's steps", kept), (1, "made again later", ~kept)):
            rows = (attempts == attempt) & chosen
            order = np.argsort(elapsed[rows], kind="stable")
            lines.append(Line(name, Series(elapsed[rows][order], steps[rows][order]), color))
    counts = (counted(len(np.unique(attempts)), "attempt"), counted(int((~kept).sum()), "step"))
    caption = f"{counts[0]} in {duration(float(elapsed.max()))}; {counts[1]} made again."
    return line_chart(
        "time",
        "Steps over time",
        lines,
        caption=caption,
        x_label="time since the first step",
        x_ticks=elapsed_ticks(float(elapsed.max())),
        zero=True,
    )


def _identity(table: pa.Table) -> npt.NDArray[np.int64]:
    """One number per record: no attempt makes a step twice."""
    attempts, steps = table["attempt"].to_numpy(), table["step"].to_numpy()
    return np.asarray((attempts.astype(np.int64) << 32) | steps)


def elapsed_ticks(seconds: float) -> tuple[Tick, ...]:
    """Ticks of an axis of seconds, in the unit that gives numbers a person can read."""
    unit, letter = next(
        (u, name)
        for limit, u, name in ((120, 1, "s"), (7200, 60, "min"), (4 * 86400, 3600, "h"), (np.inf, 86400, "d"))
        if seconds <= limit
    )
    axis = Axis(0.0, max(seconds / unit, 1e-9))
    values = axis.ticks(5)
    return tuple(Tick(100 * v / axis.high, f"{number_label(v, values)} {letter}") for v in values)
