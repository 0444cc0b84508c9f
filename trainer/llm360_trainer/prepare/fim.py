"""Fill-in-the-middle: documents of code turned around, so that a model learns to write what stands between.

    ids of a row ──► documents ──► text ──► prefix | middle | suffix, cut at two random characters
                                            └─ each tokenized again, sentinels before each:
    PSM   <prefix> P <suffix> S <middle> M          SPM   <prefix> <suffix> S <middle> P M

The rule is that of CrystalCoder (crystalcoder-data-prep, fim_hdf5_stage2.py at 08167bc) after arXiv:2207.14255: rows
are packed first, then the documents of each row are turned around one by one, also those that the row cuts off. A row
that has grown is cut; one that has shrunk is filled with the padding token, whose loss does not count.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from llm360.data.rows import Ids, Span
from llm360.errors import InputError

# Names of the sentinels: CrystalCoder's published tokenizer, and StarCoder's, by which its preparation calls them.
NAMES = {part: (f"<|fim_{part}|>", f"<fim_{part}>") for part in ("prefix", "middle", "suffix", "pad")}
# Rows whose texts are tokenized together: enough to keep the library busy, few enough to stay small in memory.
BATCH_ROWS = 256


class FimRates(NamedTuple):
    """How often documents are turned around."""

    rate: float
    """Share of documents that are cut in three."""
    spm_rate: float
    """Share of these whose suffix stands first."""
    by_row: bool = False
    """Whether all documents of a row are turned around alike, or none (K2); else each is drawn for itself."""

    def to_json(self) -> dict[str, float | bool]:
        """As a recipe records it."""
        values = self._asdict()
        return values if self.by_row else {name: values[name] for name in ("rate", "spm_rate")}


def parse_fim(text: str) -> tuple[str, FimRates]:
    """Read `SOURCE=RATE[/SPM_RATE]`; half of the documents have their suffix first where it is not said.

    Raises:
        InputError: it is not of that form, or a rate is out of its range.
    """
    name, _, rates = text.partition("=")
    rate, _, spm_rate = rates.partition("/")
    try:
        found = FimRates(float(rate), float(spm_rate or 0.5))
    except ValueError:
        found = FimRates(-1, -1)
    if not (name and 0 < found.rate <= 1 and 0 <= found.spm_rate <= 1):
        raise InputError(
            f"--fim {text} is not SOURCE=RATE[/SPM_RATE], both from 0 to 1 and the first above 0, like code=0.9/0.5"
        )
    return name, found


class Sentinels(NamedTuple):
    """Ids that stand before the parts of a document, and the one that fills a row."""

    prefix: int
    middle: int
    suffix: int
    pad: int


class TurnedRow(NamedTuple):
    """A row as it is stored."""

    ids: Ids
    """[row_tokens], the dtype of the row that came in."""
    loss_mask: NDArray[np.uint8]
    """[row_tokens - 1], 0 for labels that are padding."""
    spans: tuple[Span, ...]
    """Of the documents in it; the last one reaches to the row's end. A span's length counts ids of the new row."""


def find_sentinels(tokenizer: Tokenizer) -> Sentinels:
    """The tokenizer's sentinels.

    Raises:
        InputError: reason SentinelsMissing; it has not all of them, under any of their usual names.
    """
    found = {
        part: next((number for name in names if (number := tokenizer.token_to_id(name)) is not None), None)
        for part, names in NAMES.items()
    }
    missing = [NAMES[part][0] for part, number in found.items() if number is None]
    if missing:
        raise InputError(
            f"fill-in-the-middle (fim) needs sentinel tokens, but the tokenizer has no {', '.join(missing)}; use a"
            " tokenizer that has them, or leave fim away",
            reason="SentinelsMissing",
        )
    return Sentinels(**{part: number for part, number in found.items() if number is not None})


@dataclass(frozen=True)
class RowTurner:
    """Turns the documents of rows around.

    Args:
        tokenizer: That of the ids, set not to find special tokens in text.
        eos_id: Ends each document.
        rates: How often.
        seed: Of all draws. A row's draws follow from it, `purpose` and the row's number alone.
        purpose: The source's name: rows of two sources are drawn independently.
        labels_inside: Whether a row's last id is an input, not only a label.
    """

    tokenizer: Tokenizer
    eos_id: int
    rates: FimRates
    seed: int
    purpose: str
    labels_inside: bool = False

    def turn(self, rows: Iterable[tuple[int, Ids, Sequence[Span]]]) -> Iterator[TurnedRow]:
        """The rows, turned around, in their order.

        Where labels are the next token, a row's last id is only a label; it becomes EOS, as in the original.

        Args:
            rows: Number, ids[row_tokens] and documents of each row.
        """
        waiting = iter(rows)
        sentinels = find_sentinels(self.tokenizer)
        while batch := list(islice(waiting, BATCH_ROWS)):
            pieces = [self._pieces(ids, spans) for _, ids, spans in batch]
            drawn = [random.Random(f"{self.seed}/{self.purpose}/{number}") for number, _, _ in batch]  # noqa: S311
            forms = [self._forms(generator, len(row)) for generator, row in zip(drawn, pieces, strict=True)]
            bodies = [
                piece.body
                for row, row_forms in zip(pieces, forms, strict=True)
                for piece, form in zip(row, row_forms, strict=True)
                if form is not None
            ]
            texts = iter(self.tokenizer.decode_batch(bodies, skip_special_tokens=False))
            parts = [
                part
                for generator, row_forms in zip(drawn, forms, strict=True)
                for form in row_forms
                if form is not None
                for part in _cut(generator, next(texts))
            ]
            encoded = (e.ids for e in self.tokenizer.encode_batch_fast(parts, add_special_tokens=False))
            for (_, ids, spans), row, row_forms in zip(batch, pieces, forms, strict=True):
                turned = [
                    (piece, piece.body if form is None else _join(sentinels, form, *islice(encoded, 3)))
                    for piece, form in zip(row, row_forms, strict=True)
                ]
                yield self._fit(ids, spans[0], turned, sentinels.pad)

    def _forms(self, generator: random.Random, count: int) -> list[bool | None]:
        """Of each of a row's documents whether its suffix stands first; None for those that stay as they are."""

        def draw() -> bool | None:
            is_turned, is_spm = generator.random() < self.rates.rate, generator.random() < self.rates.spm_rate
            return is_spm if is_turned else None

        return [draw()] * count if self.rates.by_row else [draw() for _ in range(count)]

    def _pieces(self, ids: Ids, spans: Sequence[Span]) -> list[_Piece]:
        """A row's documents without their EOS; those that are nothing but EOS are left out, as in the original."""
        stop = len(ids) if self.labels_inside else len(ids) - 1
        pieces = []
        is_whole = False
        for span in spans:
            body = ids[span.start : min(span.start + span.length, stop)].tolist()
            if not body:
                continue
            is_whole = body[-1] == self.eos_id
            if is_whole:
                body.pop()
            if body:
                pieces.append(_Piece(span, body, is_whole))
        if is_whole:
            # What follows a row's last EOS is a document of no characters, which the original turns around as well.
            pieces.append(_Piece(spans[-1], [], False))
        return pieces

    def _fit(self, ids: Ids, first: Span, pieces: Sequence[tuple[_Piece, list[int]]], pad: int) -> TurnedRow:
        """Put a row's documents end to end, then cut or fill it to the length that it had."""
        row: list[int] = []
        spans: list[Span] = []
        for piece, body in pieces:
            start = len(row)
            row += [*body, self.eos_id] if piece.is_whole else body
            if start < len(row) and start < len(ids):
                spans.append(Span(piece.span.document, piece.span.offset, start, len(row) - start))
        if not self.labels_inside:
            row.append(self.eos_id)
        loss_mask = np.ones(len(ids) - 1, np.uint8)
        loss_mask[max(len(row) - 1, 0) :] = 0
        row = row[: len(ids)] + [pad] * (len(ids) - len(row))
        last = spans.pop() if spans else first._replace(start=0)
        spans.append(last._replace(length=len(ids) - last.start))
        return TurnedRow(np.array(row, ids.dtype), loss_mask, tuple(spans))


class _Piece(NamedTuple):
    span: Span
    body: list[int]
    is_whole: bool  # an EOS follows


def _cut(generator: random.Random, text: str) -> tuple[str, str, str]:
    """Prefix, middle and suffix: cut at two characters of all places, both ends included, so each may be empty."""
    low, high = sorted(int(generator.random() * (len(text) + 1)) for _ in range(2))
    return text[:low], text[low:high], text[high:]


def _join(sentinels: Sentinels, is_spm: bool, prefix: list[int], middle: list[int], suffix: list[int]) -> list[int]:
    if is_spm:
        return [sentinels.prefix, sentinels.suffix, *suffix, sentinels.middle, *prefix, *middle]
    return [sentinels.prefix, *prefix, sentinels.suffix, *suffix, sentinels.middle, *middle]
