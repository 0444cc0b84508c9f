"""The report: one HTML page that loads nothing and needs no script."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import jinja2

from llm360 import __version__
from llm360.data.manifest import DataManifest, Source
from llm360.errors import LLM360Error
from llm360.release.analyses import AnalysisResults, merged_results
from llm360.release.create import load_config
from llm360.release.entries import Stage
from llm360.release.environment import load_environment
from llm360.release.history import History
from llm360.release.layout import ledger_key
from llm360.release.metrics import run_table
from llm360.release.words import stated_words
from llm360.report.analyses import analysis_figures
from llm360.report.chart import Chart
from llm360.report.facts import RunFacts, read_facts, read_stage_data
from llm360.report.figures import Reference, RunData, figures
from llm360.report.grid import STRONGEST, Grid
from llm360.report.scores import score_curves, score_figures
from llm360.report.series import Series, column, smooth, smoothing_reach
from llm360.report.tables import CheckpointRow, attempt_rows, checkpoint_rows, event_rows
from llm360.report.text import address_of, counted, duration, short_bytes, short_count, utc
from llm360.report.verification import VerificationView
from llm360.storage import Storage
from llm360.storage.open import without_credentials

SECTIONS = (
    ("verification", "Verification"),
    ("curves", "Curves"),
    ("evaluations", "Evaluations"),
    ("analyses", "Analyses"),
    ("checkpoints", "Checkpoints"),
    ("attempts", "Attempts"),
    ("events", "Events"),
    ("data", "Data"),
    ("environment", "Environment"),
)

PHASE_CLASSES = {"complete": "ok", "in progress": "running", "not progressing": "silent"}


class Tile(NamedTuple):
    """One number of the summary."""

    name: str
    value: str
    detail: str


class LegendItem(NamedTuple):
    """A line's sample and name."""

    name: str
    color: int
    role: str


@dataclass(frozen=True)
class StageView:
    """A stage's data as the page shows it."""

    name: str
    pairs: tuple[tuple[str, str], ...]
    manifest: str
    rows: int
    sources: tuple[Source, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class EnvironmentView:
    """What an attempt ran on, as the page shows it."""

    attempt: int
    digest: str
    pairs: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ReportFigures:
    """All figures of a report, in the order of the page.

    Attributes:
        curves: Of the training.
        scores: Of evaluations.
        analyses: Of analyses.
        analysed: What the last ones show.
        problems: Sentences on what could not be read.
    """

    curves: tuple[Chart, ...]
    scores: tuple[Chart, ...]
    analyses: tuple[Chart | Grid, ...]
    analysed: tuple[AnalysisResults, ...]
    problems: tuple[str, ...]

    @property
    def all(self) -> tuple[Chart | Grid, ...]:
        """Every one."""
        return (*self.curves, *self.scores, *self.analyses)


def report_figures(
    storage: Storage, history: History, name: str, run: RunData, compare: Sequence[str] = ()
) -> ReportFigures:
    """The figures of a release.

    Args:
        storage: The release.
        history: What its ledger says.
        name: The run's.
        run: Its step records.
        compare: Models whose published scores stand behind the run's.
    """
    analysed, problems = merged_results(storage, history)
    return ReportFigures(
        curves=tuple(figures(run)),
        scores=tuple(score_figures({name: score_curves(history)}, compare)),
        analyses=tuple(analysis_figures(analysed)),
        analysed=tuple(analysed),
        problems=tuple(problems),
    )


def read_run(storage: Storage, history: History, manifests: Mapping[int, DataManifest | str]) -> RunData:
    """What the charts of the training are made of.

    Raises:
        ObjectNotFoundError, IntegrityError: a metrics segment is missing or changed.
    """
    return RunData(
        table=run_table(storage, history),
        everything=run_table(storage, history, all_attempts=True),
        history=history,
        unigram=tuple(
            Reference(stage.step, stage.last_step, manifest.unigram_entropy)
            for stage in history.stages
            if isinstance(manifest := manifests[stage.stage], DataManifest)
        ),
    )


def render_report(
    storage: Storage,
    history: History,
    now: datetime,
    verification: VerificationView | None = None,
    compare: Sequence[str] = (),
) -> str:
    """The page for a release.

    Args:
        storage: The release.
        history: What its ledger says; not empty.
        now: The present time, to tell a silent run.
        verification: What `verify` found; None says so on the page.
        compare: Models whose published scores stand behind the run's.

    Raises:
        ObjectNotFoundError, IntegrityError: what the page must show is missing or changed.
    """
    facts = read_facts(storage, history, now)
    manifests = {stage.stage: read_stage_data(storage, stage) for stage in history.stages}
    run = read_run(storage, history, manifests)
    drawn = report_figures(storage, history, facts.name, run, compare)
    losses = smoothed_losses(run)
    checkpoints = checkpoint_rows(history, losses)
    environment = read_environment(storage, history)
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            version=__version__,
            facts=facts,
            phase_class=PHASE_CLASSES[facts.phase],
            lead=lead_of(facts),
            words=stated_words(history),
            sections=SECTIONS,
            tiles=tiles_of(facts, run),
            verification=verification,
            commands=commands_of(facts, history),
            head_key=ledger_key(facts.head_seq),
            head_command=_head_command(facts),
            head_hex=facts.head_digest.removeprefix("sha256:"),
            charts=[figure_view(figure) for figure in drawn.curves],
            scores=[figure_view(figure) for figure in drawn.scores],
            analyses=[figure_view(figure) for figure in drawn.analyses],
            analysed=drawn.analysed,
            analysis_problems=drawn.problems,
            problems=[f"No unigram line: {m}" for m in manifests.values() if isinstance(m, str)],
            checkpoints=checkpoints,
            checkpoints_text=checkpoints_text(checkpoints),
            attempts=attempt_rows(history),
            events=event_rows(history),
            stages=[stage_view(stage, manifests[stage.stage]) for stage in history.stages],
            environment=environment if isinstance(environment, EnvironmentView) else None,
            environment_problem=environment if isinstance(environment, str) else "",
            config=json.dumps(load_config(storage, history.config_digest), indent=2, ensure_ascii=False),
        )
    )


def templates() -> jinja2.Environment:
    """The pages' templates, with what they call."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llm360.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "pct": lambda value: f"{value:.2f}%",
        "num": lambda value: f"{value:.1f}",
        "utc": utc,
        "clock": lambda time: utc(time).removesuffix(" UTC"),
        "hex": lambda digest: digest.removeprefix("sha256:"),
        "count": short_count,
        "bytes": short_bytes,
    }
    environment.filters |= filters
    environment.globals["strongest"] = STRONGEST
    return environment


def figure_view(chart: Chart | Grid) -> dict[str, Any]:
    """A figure for the template."""
    if isinstance(chart, Grid):
        return vars(chart) | {"is_grid": True, "is_told": chart.is_told}
    items = dict.fromkeys(LegendItem(path.name, path.color, path.role) for path in chart.paths if path.role != "band")
    own_first = sorted(items, key=lambda item: item.role == "published")
    kinds = [kind for kind in ("restart", "skip", "stage") if any(mark.kind == kind for mark in chart.marks)]
    return vars(chart) | {"is_grid": False, "legend": own_first, "mark_kinds": kinds}


def smoothed_losses(run: RunData) -> dict[int, float]:
    """The smoothed loss by step."""
    steps, losses = column(run.table, "step"), column(run.table, "loss")
    x, y = smooth(Series(steps, losses), smoothing_reach(len(steps)))
    return {int(step): float(loss) for step, loss in zip(x, y, strict=True)}


def lead_of(facts: RunFacts) -> str:
    """One sentence on what this is."""
    preset = f"preset {facts.preset}, " if facts.preset else ""
    total = f" of {facts.total_steps:,}" if facts.total_steps is not None else ""
    written = f"as of ledger entry {facts.head_seq} ({utc(facts.last_entry_time)})"
    return f"Pretraining run: {preset}step {facts.step:,}{total}, {written}."


def tiles_of(facts: RunFacts, run: RunData) -> list[Tile]:
    """The numbers on top of the page."""
    total_steps = f"of {facts.total_steps:,}" if facts.total_steps is not None else "of a length not yet known"
    total_tokens = f"of {short_count(facts.total_tokens)}" if facts.total_tokens is not None else ""
    unigram = f"unigram entropy {run.unigram[-1].value:.3f}" if run.unigram else "nats"
    tiles = [Tile("Steps", f"{facts.step:,}", total_steps), Tile("Tokens", short_count(facts.tokens), total_tokens)]
    if facts.recent_loss is not None:
        tiles.append(Tile(f"Loss, last {counted(facts.recent_steps, 'step')}", f"{facts.recent_loss:.3f}", unigram))
    if facts.tokens_per_second is not None:
        mfu = f"MFU {100 * facts.mfu:.1f}%" if facts.mfu is not None else "over all workers"
        tiles.append(Tile("Tokens per second", short_count(facts.tokens_per_second), mfu))
    published = sum(checkpoint.body.published for checkpoint in run.history.branch)
    tiles.append(Tile("Checkpoints", f"{facts.checkpoints}", f"{published} published"))
    tiles.append(Tile("Attempts", f"{facts.attempts}", counted(max(0, facts.attempts - 1), "restart")))
    if run.table.num_rows:
        seconds = float(column(run.everything, "step_seconds").sum())
        memory = short_bytes(float(column(run.everything, "memory_bytes").max()))
        tiles.append(Tile("Time in steps", duration(seconds), f"peak memory {memory} per worker"))
    if (end := facts.estimated_completion) is not None:
        tiles.append(Tile("Estimated end", f"{end:%H:%M}", f"{end:%d %b %Y}, UTC"))
    return tiles


def commands_of(facts: RunFacts, history: History) -> list[str]:
    """What a reader types to check the release."""
    uri = address_of(facts.uri)
    lines = [
        (f"llm360 verify {uri} --head {facts.head_digest}", "this very history, every checkpoint's every byte"),
        (f"llm360 verify {uri} --tensors all --data", "each tensor's own digest, and the training data's shards"),
    ]
    if history.stages:
        data = history.stages[0].data
        place = address_of(data) if "://" in data else f"{uri.rstrip('/')}/{data}"
        lines.append((f"llm360 data show {place} --step 0", "the text of the first step"))
    return [part for command, comment in lines for part in (f"# {comment}", command)]


def _head_command(facts: RunFacts) -> str:
    if not facts.uri.startswith("file://"):
        return ""
    return f"sha256sum {address_of(facts.uri)}/{ledger_key(facts.head_seq)}"


def checkpoints_text(rows: list[CheckpointRow]) -> str:
    """How to read the table."""
    text = (
        "Each checkpoint is bound to the rows of prepared data that were read since the one before it, by row number"
        " inside the chunk, first and last included. Digests are of what the tensors hold, whoever wrote them."
    )
    given_up = sum("given up" in row.status for row in rows)
    return text + (
        f" Struck out: {counted(given_up, 'checkpoint')} that the run later went back behind." if given_up else ""
    )


def stage_view(stage: Stage, manifest: DataManifest | str) -> StageView:
    """A stage's facts for the page."""
    chunks = counted(len(stage.chunk_rows), "chunk")
    pairs = [
        ("Steps", f"{stage.num_steps:,}, from step {stage.step:,}"),
        ("Batch", f"{stage.batch_rows:,} rows of {stage.predictions:,} predictions"),
        ("Rows", f"{sum(stage.chunk_rows):,} in {chunks}; a chunk's remainder: {stage.remainder}"),
        ("Lies in", without_credentials(stage.data)),
    ]
    if isinstance(manifest, str):
        return StageView(stage.name, tuple(pairs), stage.digests.manifest, sum(stage.chunk_rows), problem=manifest)
    tokenizer = manifest.tokenizer
    pairs += [
        ("Order", manifest.shuffle + (f", seed {manifest.seed}" if manifest.seed is not None else "")),
        ("Tokenizer", f"{tokenizer.vocab_size:,} tokens, {tokenizer.digest}"),
        ("Unigram entropy", f"{manifest.unigram_entropy:.4f} nats per token"),
    ]
    return StageView(stage.name, tuple(pairs), stage.digests.manifest, manifest.rows, manifest.sources)


def read_environment(storage: Storage, history: History) -> EnvironmentView | str | None:
    """The environment of the newest attempt that an entry binds; a sentence where it cannot be read."""
    bound = next((row for row in reversed(attempt_rows(history)) if row.environment), None)
    if bound is None:
        return None
    try:
        value = load_environment(storage, bound.attempt, bound.environment)
    except (LLM360Error, ValueError) as error:
        return f"The environment of attempt {bound.attempt} could not be read: {error}"
    packages = value.pop("packages", None) or {}
    pairs = tuple(
        (name.replace("_", " ").capitalize(), _plain(member))
        for name, member in value.items()
        if name not in ("format", "attempt", "operations")
    )
    return EnvironmentView(bound.attempt, bound.environment, pairs, tuple(sorted(packages.items())))


def _plain(value: Any) -> str:
    """A JSON value as a short line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{name.replace('_', ' ')} {_plain(member)}" for name, member in value.items())
    if isinstance(value, list):
        return "; ".join(_plain(member) for member in value)
    return (
        {None: "unknown", True: "yes", False: "no"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )
