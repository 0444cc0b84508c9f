"""An evaluation's numbers as they follow from its `results.json`; the ledger's entry repeats them.

Pure, and apart from the harness, so that `verify` and the evaluation itself count alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from llm360.release.entries import Score

RESULTS_NAME = "results.json"


def scores_of(results: Any, name: str) -> tuple[Score, ...]:
    """The numbers of a task or group; of a group without numbers of its own those of its tasks, `task/metric`.

    Args:
        results: What `results.json` holds.
        name: Of the task or group.

    Raises:
        ValueError: it holds no results of the harness.
    """
    by_task, configs = _objects(results, "results"), _objects(results, "configs")
    own = tuple(_scores(_objects(by_task, name), ""))
    if own:
        return own
    return tuple(score for task in sorted(configs) for score in _scores(_objects(by_task, task), f"{task}/"))


def _objects(values: Any, name: str) -> Mapping[str, Any]:
    """A member that is an object; empty where it is not there."""
    found = values.get(name, {}) if isinstance(values, Mapping) else None
    if not isinstance(found, Mapping):
        raise ValueError(f"expected objects, found {str(values)[:80]!r} where '{name}' should be")
    return found


def _scores(metrics: Mapping[str, Any], prefix: str) -> Iterator[Score]:
    for key, value in sorted(metrics.items()):
        metric, comma, filtered = key.partition(",")
        if not comma or metric.endswith("_stderr") or not _is_number(value):
            continue
        error = metrics.get(f"{metric}_stderr,{filtered}")
        yield Score(
            metric=prefix + (metric if filtered == "none" else key),
            value=float(value),
            stderr=float(error) if error is not None and _is_number(error) else None,
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
