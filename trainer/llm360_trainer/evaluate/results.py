"""What an evaluation leaves: the harness's own results and their numbers, without times, so that they can be compared.

results.json             the harness's results, configurations and versions; under `llm360` what they are bound to
samples_<task>.jsonl     where asked for: each sample, what the model said, and its score
execution.json           when, how long, on what and by which packages; the only file that differs between two runs
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import numpy as np

from llm360.release.scores import RESULTS_NAME

EXECUTION_NAME = "execution.json"
_PACKAGES = ("lm-eval", "datasets", "numpy", "tokenizers", "torch")
_PARTS = (
    "results", "groups", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
)  # fmt: skip
_TASKS_FOLDER = "lm_eval/tasks/"


def result_files(results: Mapping[str, Any], bound_to: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of an evaluation but the last to be written, by name; the same results give the same bytes.

    Args:
        results: Of the harness.
        bound_to: Checkpoint, data, seeds and settings, JSON values.
    """
    kept = {part: results[part] for part in _PARTS if part in results}
    files = {RESULTS_NAME: _encode(kept | {"llm360": bound_to}, indent=2)}
    for task, samples in results.get("samples", {}).items():
        ordered = sorted(samples, key=lambda sample: (sample["doc_id"], sample["filter"]))
        files[f"samples_{task}.jsonl"] = b"".join(_encode(sample) for sample in ordered)
    return files


def execution_file(facts: Mapping[str, Any]) -> bytes:
    """`execution.json`, with the versions of the packages that took part."""
    return _encode({**facts, "packages": {name: version(name) for name in _PACKAGES}}, indent=2)


def _encode(value: Any, indent: int | None = None) -> bytes:
    return (json.dumps(_plain(value), indent=indent, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _plain(value: Any) -> Any:
    """JSON values that depend on neither process nor machine: functions by name, tasks' files below their folder."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(map(_plain, value))
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return value[value.index(_TASKS_FOLDER) :] if value.startswith("/") and _TASKS_FOLDER in value else value
    if value is None or isinstance(value, bool | int | float):
        return value
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return str(value)
