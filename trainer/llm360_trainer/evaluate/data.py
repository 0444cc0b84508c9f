"""Where the tasks' data come from: the hub, or a mirror.

The harness's tasks ask `datasets.load_dataset` while they are loaded, so inside `TaskData.serving` that answers from
where it is told to. Every data set that is taken is noted, and results carry the digests of its rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import datasets

from llm360.canonical import DIGEST_PREFIX
from llm360.errors import InputError, LLM360Error
from llm360.storage import Storage
from llm360_trainer.evaluate.mirror import DataName, Splits, has_dataset, read_dataset, write_dataset

_HOW_NOT_WHAT = ("trust_remote_code", "cache_dir", "download_mode", "keep_in_memory")
"""Arguments of `load_dataset` that do not change what it returns."""

_HUB_ERRORS = (OSError, datasets.exceptions.DatasetsError, datasets.exceptions.DatasetBuildError, ValueError)


@dataclass
class TaskData:
    """Answers the tasks' requests for data.

    Attributes:
        mirror: Where they come from; None: the hub, or what was kept of it on this machine.
        fill: Takes what comes from the hub and is not there yet.
    """

    mirror: Storage | None = None
    fill: Storage | None = None
    _kept: dict[DataName, Splits] = field(default_factory=dict)
    _digests: dict[DataName, dict[str, str]] = field(default_factory=dict)

    @contextlib.contextmanager
    def serving(self) -> Iterator[list[DataName]]:
        """Answer `datasets.load_dataset` inside the block; yields what was taken, in order.

        Raises:
            InputError: (from `load_dataset`) a data set is not there; says how to have it.
        """
        taken: list[DataName] = []
        original = datasets.load_dataset

        def load_dataset(path: str, name: str | None = None, split: str | None = None, **arguments: Any) -> Any:
            named = {key: value for key, value in arguments.items() if key not in _HOW_NOT_WHAT}
            wanted = DataName(path=path, config=name, arguments=json.dumps(named, sort_keys=True) if named else None)
            if wanted not in taken:
                taken.append(wanted)
            if wanted not in self._kept:
                self._keep(wanted, lambda: original(path, name, **arguments))
            splits = self._kept[wanted]
            return splits[split] if split is not None else datasets.DatasetDict(splits)

        datasets.load_dataset = load_dataset
        try:
            yield taken
        finally:
            datasets.load_dataset = original

    def digests(self, names: Iterable[DataName]) -> dict[str, dict[str, str]]:
        """Digest of the rows of each split of each data set."""
        for name in names:
            if name not in self._digests:
                self._digests[name] = {split: rows_digest(rows) for split, rows in sorted(self._kept[name].items())}
        return {str(name): self._digests[name] for name in names}

    def _keep(self, name: DataName, ask_hub: Callable[[], Splits]) -> None:
        self._kept[name] = read_dataset(self.mirror, name) if self.mirror else self._from_hub(name, ask_hub)
        if self.fill is not None and not has_dataset(self.fill, name):
            write_dataset(self.fill, name, self._kept[name])

    def _from_hub(self, name: DataName, ask_hub: Callable[[], Splits]) -> Splits:
        try:
            return dict(ask_hub())
        except _HUB_ERRORS as error:
            raise _missing(name, error, filling=self.fill is not None) from error


def rows_digest(rows: datasets.Dataset) -> str:
    """sha256 of a split's rows, each as JSON with sorted keys on a line: the same from the hub and from a mirror."""
    sha256 = hashlib.sha256()
    for row in rows:
        sha256.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return DIGEST_PREFIX + sha256.hexdigest()


def _missing(name: DataName, error: Exception, *, filling: bool) -> LLM360Error:
    """Bad input where this machine is told to stay offline or the hub has no such data; else later it may work."""
    offline = datasets.config.HF_HUB_OFFLINE or datasets.config.HF_DATASETS_OFFLINE
    unknown = isinstance(error, datasets.exceptions.DatasetNotFoundError)
    problem = " ".join(str(error).split())[:200].rstrip(".")
    if not filling:
        advice = (
            "where there is internet fill a mirror with 'llm360 eval mirror --tasks … --out URI', and name it here with"
            " --mirror URI"
        )
    elif offline:
        advice = (
            "a mirror is filled from there, so unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE where there is internet"
        )
    elif unknown:
        advice = "set HF_TOKEN to the token of an account that may read it, or leave its task out"
    else:
        advice = "a mirror is filled from there, so give this command again where the hub can be reached"
    return (InputError if offline or unknown else LLM360Error)(
        f"data set {name} is not on this machine and does not come from the hub ({problem}); {advice}",
        reason="EvaluationDataMissing",
    )
