"""Memorization: which part of the training data a checkpoint gives back, word for word.

score(k, l) of a sequence is the share of the l tokens after its first k that greedy decoding gives at their very
place; a sequence with score 1 is *extractible*. Definition, sample and treatment of early ends are those of LLM360's
demo (LLM360/Analysis360 analysis/memorization/demo.ipynb at efe4ec3), after arXiv:2304.11158.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from llm360.errors import InputError
from llm360.release.analyses import Cell, Figure, Matrix
from llm360.release.history import History
from llm360.report.facts import checkpoint_label
from llm360.storage import Storage
from llm360_trainer.analyze.analysis import Analysis, Measured, Subject, cells_by_source, means
from llm360_trainer.analyze.pieces import ChunkSample, Piece
from llm360_trainer.model.decode import greedy


class Memorization(Analysis):
    """Chunks × checkpoints, sequence by sequence."""

    name = "memorization"
    summary = "which part of the training data each checkpoint gives back, word for word"
    reads = "a sample of each data chunk's rows: the first k tokens are the prompt, the l after them the truth"
    writes = "per sequence: its row, its source, how many of the l tokens greedy decoding gives, and whether all"
    figures = (
        Figure(
            key="memorization",
            kind="heatmap",
            title="Memorization score",
            caption="Share of the tokens after the prompt that greedy decoding gives, by checkpoint and data chunk.",
            value="score",
            percent=True,
        ),
        Figure(
            key="extractible",
            kind="lines",
            title="Extractible sequences",
            caption="Share of the sequences that greedy decoding gives whole.",
            value="extractible",
            error="extractible_stderr",
            percent=True,
        ),
        Figure(
            key="memorization-by-source",
            kind="lines",
            title="Memorization score by source",
            caption="The score on what each source gave, over all chunks.",
            value="score",
            error="score_stderr",
            by="source",
            percent=True,
        ),
        Figure(
            key="memorization-distribution",
            kind="distribution",
            title="Distribution of the score",
            caption="Share of the sequences by the number of tokens that greedy decoding gives.",
        ),
        Figure(
            key="memorization-correlation",
            kind="correlation",
            title="Correlation of the score between checkpoints",
            caption="Pearson's correlation, over the same sequences: whether two checkpoints remember the same ones.",
        ),
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """The sample's options, and k and l."""
        super().configure(parser)
        parser.add_argument("-k", type=int, default=32, metavar="TOKENS", help="prompt (default: 32)")
        parser.add_argument("-l", type=int, default=32, metavar="TOKENS", help="decoded and compared (default: 32)")

    def settings(self, args: argparse.Namespace) -> dict[str, Any]:
        """The sample, k and l."""
        for name in ("k", "l"):
            if getattr(args, name) < 1:
                raise InputError(f"-{name} is {getattr(args, name)}; it must be at least 1 token, 32 is usual")
        return {**super().settings(args), "k": args.k, "l": args.l}

    def pieces(self, storage: Storage, history: History, args: argparse.Namespace) -> Sequence[Piece]:
        """Samples of the chunks."""
        pieces = super().pieces(storage, history, args)
        for piece in pieces:
            assert isinstance(piece, ChunkSample)
            if args.k + args.l > piece.manifest.row_tokens:
                raise InputError(
                    f"-k {args.k} and -l {args.l} are {args.k + args.l} tokens; the data's rows have"
                    f" {piece.manifest.row_tokens}; give fewer"
                )
        return pieces

    def measure(self, subject: Subject, piece: ChunkSample, settings: Mapping[str, Any]) -> pa.Table:
        """Decode after each prompt and compare."""
        k, length = int(settings["k"]), int(settings["l"])
        ids = piece.read.ids[:, : k + length].astype(np.int64)
        decoded: list[list[int]] = []
        prompts = ids[:, :k].tolist()
        for start in range(0, len(prompts), subject.batch_size):
            batch = prompts[start : start + subject.batch_size]
            decoded += greedy(subject.decoder, batch, length, piece.manifest.tokenizer.eos_id)
        matches = count_matches(ids[:, k:], decoded)
        return pa.table(
            {
                "row": pa.array(piece.rows, pa.int64()),
                "trained": pa.array(piece.rows < piece.num_trained),
                "source": pa.array(piece.sources, pa.string()),
                "matches": pa.array(matches, pa.int64()),
                "score": pa.array(matches / length, pa.float64()),
                "extractible": pa.array((matches == length).astype(np.float64)),
            }
        )

    def cells(self, measured: Measured) -> list[Cell]:
        """Score and extractible share with their standard errors, and how many sequences have how many matches."""
        length = int(measured.settings["l"])
        return cells_by_source(measured, means, lambda table: histogram(table, length))

    def matrices(self, parts: Sequence[Measured]) -> dict[str, Matrix]:
        """How the scores of two checkpoints go together, over the sequences that both were measured on."""
        return {"memorization-correlation": correlation(parts)}


def count_matches(truth: NDArray[np.int64], decoded: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """How many tokens of each sequence were decoded at their place.

    What follows a sequence's early end counts as no match, as in the published protocol: the generator stopped at the
    end-of-document token and filled up with another.

    Args:
        truth: ids[sequences, l].
        decoded: Per sequence, l ids or fewer.
    """
    padded = np.full(truth.shape, -1, dtype=np.int64)
    for row, ids in zip(padded, decoded, strict=True):
        row[: len(ids)] = ids
    return np.asarray((padded == truth).sum(axis=1))


def histogram(table: pa.Table, length: int) -> tuple[int, ...]:
    """How many sequences have 0, 1, … `length` matches, of a table of `measure`."""
    return tuple(np.bincount(table["matches"].to_numpy(), minlength=length + 1).tolist())


def correlation(parts: Sequence[Measured]) -> Matrix:
    """Pearson's correlation of the scores for every two checkpoints; none where one of them does not vary."""
    scores: dict[str, dict[str, NDArray[np.float64]]] = {}
    labels: dict[str, str] = {}
    for part in sorted(parts, key=lambda part: part.checkpoint.step):
        labels[part.checkpoint.name] = checkpoint_label(part.checkpoint.body)
        scores.setdefault(part.checkpoint.name, {})[part.piece.name] = part.table["score"].to_numpy()
    names = list(labels)
    values = [[_pearson(scores[one], scores[other]) for other in names] for one in names]
    return Matrix(names=tuple(labels.values()), values=tuple(map(tuple, values)))


def _pearson(one: Mapping[str, NDArray[np.float64]], other: Mapping[str, NDArray[np.float64]]) -> float | None:
    common = [piece for piece in one if piece in other]
    if not common:
        return None
    x, y = (np.concatenate([scores[piece] for piece in common]) for scores in (one, other))
    if x.std() == 0 or y.std() == 0:
        return None
    return float(np.clip(np.corrcoef(x, y)[0, 1], -1.0, 1.0))
