"""Evaluations and analyses of a release, numbers made up by a formula."""

from __future__ import annotations

from llm360.canonical import canonical_json, sha256_digest
from llm360.release.analyses import RESULTS_NAME, AnalysisResults, Cell, Figure, Matrix
from llm360.release.entries import Analysis, Checkpoint, Eval, Score
from llm360.release.entry import Entry
from llm360.release.history import History
from llm360.release.layout import analysis_prefix, eval_prefix
from synthetic.release import SyntheticRelease

FIGURES = (
    Figure(key="memory", kind="heatmap", title="Memory", value="score", percent=True),
    Figure(key="memory-lines", kind="lines", title="Memory", value="score", error="score_stderr", percent=True),
    Figure(key="memory-source", kind="lines", title="By source", value="score", error="score_stderr", by="source"),
    Figure(key="memory-spread", kind="distribution", title="Spread"),
    Figure(key="memory-pairs", kind="correlation", title="Pairs"),
)


def checkpoints_of(run: SyntheticRelease) -> list[Entry]:
    """The entries of the run's valid checkpoints."""
    valid = {checkpoint.name for checkpoint in History.from_entries(run.entries).branch}
    return [entry for entry in run.entries if isinstance(entry.body, Checkpoint) and entry.name in valid]


def evaluate(run: SyntheticRelease, entry: Entry, task: str, value: float, **fields: object) -> Entry:
    """Commit an evaluation with one metric."""
    uid = f"{len(run.entries):032x}"
    prefix = eval_prefix(entry.body.step, entry.name, task, uid)
    given = {
        "shots": 25,
        "harness": "lm-eval 0.4.9",
        "scores": (Score(metric="acc", value=0.5), Score(metric="acc_norm", value=value, stderr=0.01)),
    } | fields
    data = results_of(task, given["scores"])
    run.storage.put(f"{prefix}/results.json", data)
    return run.append(
        Eval(
            step=entry.body.step,
            checkpoint=entry.name,
            task=task,
            prefix=prefix,
            digests={"results.json": sha256_digest(data)},
            **given,
        )
    )


def results_of(task: str, scores: tuple[Score, ...] | None) -> bytes:
    """The harness's results.json of these numbers."""
    metrics: dict[str, float] = {}
    for score in scores or ():
        metric, _, filtered = score.metric.partition(",")
        metrics[f"{metric},{filtered or 'none'}"] = score.value
        if score.stderr is not None:
            metrics[f"{metric}_stderr,{filtered or 'none'}"] = score.stderr
    return canonical_json({"configs": {task: {}}, "results": {task: metrics}})


def cells(entries: list[Entry], pieces: tuple[str, ...]) -> tuple[Cell, ...]:
    """A cell for all sources, and one for each of two."""
    return tuple(
        Cell(
            checkpoint=entry.name,
            label=entry.body.labels[0] if entry.body.labels else f"step {entry.body.step}",
            step=entry.body.step,
            tokens=entry.body.tokens,
            piece=piece,
            source=source,
            items=10,
            values={"score": entry.body.step / 1000 + number / 10, "score_stderr": 0.02},
            counts=(entry.body.step // 10, 5, number) if source is None else None,
        )
        for entry in entries
        for number, piece in enumerate(pieces)
        for source in (None, "docs", "code")
    )


def analyse(run: SyntheticRelease, entries: list[Entry], pieces: tuple[str, ...] = ("chunk_000", "chunk_001")) -> Entry:
    """Commit an analysis of these checkpoints."""
    names = tuple(f"{entry.body.step}" for entry in entries)
    results = AnalysisResults(
        name="memory",
        summary="what is remembered",
        reads="rows",
        writes="scores",
        settings={"k": 32},
        cells=cells(entries, pieces),
        matrices={"memory-pairs": Matrix(names=names, values=tuple(tuple(0.5 for _ in names) for _ in names))},
        figures=FIGURES,
    )
    prefix = analysis_prefix("memory", f"{len(run.entries):032x}")
    run.storage.put(f"{prefix}/{RESULTS_NAME}", results.encode())
    digests = {RESULTS_NAME: sha256_digest(results.encode())}
    return run.append(Analysis(name="memory", prefix=prefix, digests=digests))


def measure(run: SyntheticRelease) -> None:
    """Evaluate every valid checkpoint on a task, and analyse all."""
    entries = checkpoints_of(run)
    for number, entry in enumerate(entries):
        evaluate(run, entry, "arc_challenge", 0.2 + number / 50)
    analyse(run, entries)
