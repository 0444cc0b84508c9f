"""The work of an analysis: every checkpoint on every piece, each measured once and kept at once, then one entry.

What an interruption leaves lies under keys that no entry names yet; the same command finds it there and does the rest.
What an earlier analysis of the same settings measured, a matrix that has grown since included, is taken over.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from llm360.canonical import digest_of, sha256_digest
from llm360.errors import InputError, IntegrityError, LLM360Error, ObjectExistsError, ObjectNotFoundError
from llm360.release.analyses import RESULTS_NAME, AnalysisResults
from llm360.release.entries import Analysis as AnalysisDraft
from llm360.release.history import CheckpointEntry, History
from llm360.release.layout import analysis_prefix
from llm360.release.ledger import Ledger
from llm360.storage import Storage
from llm360_trainer.analyze.analysis import Analysis, Measured, Subject
from llm360_trainer.analyze.pieces import Piece
from llm360_trainer.prepare.progress import Progress, silent

Open = Callable[[CheckpointEntry], Subject]


class Finished(NamedTuple):
    """What an analysis left.

    Attributes:
        prefix: The folder of its files in the release.
        entry: Name of its entry in the ledger.
        results: As stored.
        measured: How many measurements were made now; the others were there.
    """

    prefix: str
    entry: str
    results: AnalysisResults
    measured: int


@dataclass(frozen=True)
class Task:
    """An analysis as it was asked for.

    Attributes:
        analysis: Which.
        settings: What decides its numbers besides checkpoints and pieces.
        checkpoints: Which, by step.
        pieces: On what.
    """

    analysis: Analysis
    settings: Mapping[str, Any]
    checkpoints: Sequence[CheckpointEntry]
    pieces: Sequence[Piece]

    @cached_property
    def uid(self) -> str:
        """32 hex digits: the same for the same task, so that it finds what it left."""
        task = [self.analysis.name, self.settings, [c.name for c in self.checkpoints], [p.digest for p in self.pieces]]
        return digest_of(task).removeprefix("sha256:")[:32]

    def parts(self) -> Iterator[tuple[CheckpointEntry, Piece]]:
        """All measurements, a checkpoint's one after the other."""
        return ((checkpoint, piece) for checkpoint in self.checkpoints for piece in self.pieces)

    def key(self, checkpoint: CheckpointEntry, piece: Piece) -> str:
        """Where a measurement is kept below the analysis's folder: equal keys hold equal measurements."""
        measured = [self.analysis.name, self.settings, checkpoint.body.digests.model, piece.digest]
        sha12 = digest_of(measured).removeprefix("sha256:")[:12]
        return f"parts/step_{checkpoint.step:09d}/{piece.name}-{sha12}.parquet"


def analyze(ledger: Ledger, task: Task, open_checkpoint: Open, progress: Progress = silent) -> Finished:
    """Do what is left of a task, and enter it into the ledger. Safe to call again, and by several at once.

    Raises:
        IntegrityError: what an earlier analysis left is not what the ledger names.
        StorageError: the release cannot be read or written.
    """
    storage, history = ledger.storage, ledger.history()
    prefix = analysis_prefix(task.analysis.name, task.uid)
    files = _Files(storage.at(prefix), _earlier(storage, history, task.analysis.name))
    parts, measured = [], 0
    total = len(task.checkpoints) * len(task.pieces)
    subject: Subject | None = None
    for checkpoint, piece in task.parts():
        key = task.key(checkpoint, piece)
        data = files.find(key)
        if data is None:
            if subject is None or subject.checkpoint.name != checkpoint.name:
                subject = None  # let its memory go before the next takes as much
                subject = open_checkpoint(checkpoint)
            subject, table = _measure(task, subject, piece)
            data = files.keep(key, _encode(table))
            measured += 1
        parts.append(Measured(checkpoint, piece, task.settings, _decode(data, f"{prefix}/{key}")))
        progress(f"{task.analysis.name}", len(parts), total, f"step {checkpoint.step:,} · {piece.name}")
    results = _results(task, parts)
    files.keep(RESULTS_NAME, results.encode())
    return Finished(prefix, _enter(ledger, task, prefix, files.digests), results, measured)


def _measure(task: Task, subject: Subject, piece: Piece) -> tuple[Subject, pa.Table]:
    """The measurement, and the subject with the batch that the device's memory held."""
    while True:
        try:
            table = task.analysis.measure(subject, piece, task.settings)
            if not isinstance(table, pa.Table):
                raise InputError(
                    f"the analysis '{task.analysis.name}' measured something that is no pyarrow.Table but a"
                    f" {type(table).__name__}; its measure() has to return one, a row per item",
                    reason="AnalysisFailed",
                )
            return subject, table
        except torch.OutOfMemoryError as error:
            if subject.batch_size == 1:
                raise LLM360Error(f"out of memory with one sequence at a time: {error}") from error
        subject = replace(subject, batch_size=subject.batch_size // 2)
        print(f"out of memory; going on with {subject.batch_size} sequences at a time", file=sys.stderr)


def _results(task: Task, parts: Sequence[Measured]) -> AnalysisResults:
    analysis = task.analysis
    return AnalysisResults(
        name=analysis.name,
        summary=analysis.summary,
        reads=analysis.reads,
        writes=analysis.writes,
        settings=dict(task.settings),
        cells=tuple(cell for part in parts for cell in analysis.cells(part)),
        matrices=analysis.matrices(parts),
        figures=analysis.figures,
    )


def _enter(ledger: Ledger, task: Task, prefix: str, digests: Mapping[str, str]) -> str:
    only = task.checkpoints[0].name if len(task.checkpoints) == 1 else None
    draft = AnalysisDraft(name=task.analysis.name, prefix=prefix, checkpoint=only, digests=dict(digests))
    return ledger.append(lambda _: draft, uid=task.uid).name


def _earlier(storage: Storage, history: History, name: str) -> dict[str, tuple[Storage, str]]:
    """Every file that committed analyses of the name hold: where, and its digest, by its key."""
    return {
        key: (storage.at(body.prefix), digest)
        for body in history.analyses
        if body.name == name
        for key, digest in body.digests.items()
        if key != RESULTS_NAME
    }


class _Files:
    """The analysis's folder: each key is written once, whoever comes first."""

    def __init__(self, storage: Storage, earlier: Mapping[str, tuple[Storage, str]]) -> None:
        self.digests: dict[str, str] = {}
        self._storage = storage
        self._earlier = earlier

    def find(self, key: str) -> bytes | None:
        """What is there, or what an earlier analysis has of it."""
        try:
            data = self._storage.get(key)
        except ObjectNotFoundError:
            if key not in self._earlier:
                return None
            place, digest = self._earlier[key]
            data = place.get(key)
            if (found := sha256_digest(data)) != digest:
                raise IntegrityError(f"'{place.uri}/{key}' has the digest {found}, the ledger names {digest}") from None
            return self.keep(key, data)
        self.digests[key] = sha256_digest(data)
        return data

    def keep(self, key: str, data: bytes) -> bytes:
        """Write a file, unless another was first: then it is the other's that counts."""
        try:
            self._storage.create(key, data)
        except ObjectExistsError:
            data = self._storage.get(key)
        self.digests[key] = sha256_digest(data)
        return data


def _encode(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _decode(data: bytes, where: str) -> pa.Table:
    try:
        return pq.read_table(io.BytesIO(data))
    except pa.ArrowInvalid as error:
        raise IntegrityError(f"{where} is not a readable Parquet file ({error}); delete it and start again") from error
