"""Scores that others have published, checkpoint by checkpoint: facts, each with its source in the CSV files here.

`kind` says how far a value is to be trusted: `exact` from result files, `rounded` from tables, `digitized` from
figures (`low` and `high` bound what was read off). `tokens` are those that the checkpoint had seen, by the published
batches and steps.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from llm360.errors import InputError, nearest

FILES = ("amber.csv", "crystalcoder.csv", "k2.csv", "pythia.csv")


@dataclass(frozen=True)
class PublishedScore:
    """One value.

    Attributes:
        model: The preset that describes its run.
        tokens: Predictions up to the checkpoint.
        task: As lm-evaluation-harness names it.
        metric: Likewise.
        shots: Solved examples in the prompt; None where the source does not say.
        value: As the harness gives it: shares from 0 to 1.
        stderr: Its standard error, where published.
        kind: `exact`, `rounded` or `digitized`.
        source: Where it was published.
    """

    model: str
    tokens: int
    task: str
    metric: str
    shots: int | None
    value: float
    stderr: float | None
    kind: str
    source: str


@cache
def all_published() -> tuple[PublishedScore, ...]:
    """Every score in the package, by model, task, metric and tokens."""
    scores = [
        PublishedScore(
            model=row["model"],
            tokens=int(row["tokens"]),
            task=row["task"],
            metric=row["metric"],
            shots=int(row["shots"]) if row["shots"] else None,
            value=float(row["value"]),
            stderr=float(row["stderr"]) if row["stderr"] else None,
            kind=row["kind"],
            source=row["source"],
        )
        for name in FILES
        for row in csv.DictReader(files(__name__).joinpath(name).read_text().splitlines())
    ]
    return tuple(sorted(scores, key=lambda score: (score.model, score.task, score.metric, score.tokens)))


def published_models() -> list[str]:
    """Models that there are scores of."""
    return sorted({score.model for score in all_published()})


def check_published(words: str) -> tuple[str, ...]:
    """The models of a list with commas, if there are scores of every one.

    Raises:
        InputError: of one there are none.
    """
    models = tuple(word.strip() for word in words.split(",") if word.strip())
    known = published_models()
    for model in models:
        if model not in known:
            raise InputError(
                f"--compare has '{model}'{nearest(model, known)}; published scores are here of {', '.join(known)}"
            )
    return models
