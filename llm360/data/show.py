"""What a step reads, for a person: text, source, documents and offsets of its samples."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tokenizers import Tokenizer

from llm360.canonical import sha256_digest
from llm360.data.manifest import DataManifest
from llm360.data.order import StageOrder
from llm360.data.rows import Ids, Rows, Span, read_rows
from llm360.errors import InputError, IntegrityError
from llm360.storage import Storage


@dataclass(frozen=True)
class ShownPiece:
    """A piece of a document in a sample: `length` tokens at position `start`, after `offset` tokens of the document."""

    document: int
    offset: int
    start: int
    length: int
    text: str | None


@dataclass(frozen=True)
class ShownSample:
    """One row of a step.

    Args:
        step: Counted from 0.
        sample: The row's place in the step's batch, from 0.
        chunk: The row's chunk.
        row: The row in its chunk.
        source: The source's name.
        pieces: The documents of which the row is made; their text is None without a tokenizer.
        ids: The row's ids.
    """

    step: int
    sample: int
    chunk: int
    row: int
    source: str
    pieces: tuple[ShownPiece, ...]
    ids: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(self)

    def to_text(self) -> str:
        """For a terminal."""
        lines = [
            f"step {self.step} sample {self.sample} · chunk {self.chunk} row {self.row}"
            f" · source {self.source} · {len(self.ids)} ids"
        ]
        for piece in self.pieces:
            lines.append(
                f"── document {piece.document} of {self.source}, its tokens {piece.offset} to"
                f" {piece.offset + piece.length - 1}, at positions {piece.start} to {piece.start + piece.length - 1}"
            )
            ids = self.ids[piece.start : piece.start + piece.length]
            lines.append(" ".join(map(str, ids)) if piece.text is None else piece.text)
        return "\n".join(lines)


def show_step(
    storage: Storage, manifest: DataManifest, order: StageOrder, step: int, sample: int | None = None
) -> list[ShownSample]:
    """The samples that a step reads, or one of them.

    Args:
        storage: Rooted at the manifest's folder.
        manifest: Of that folder.
        order: Of the stage.
        step: Counted from 0.
        sample: Place in the batch, from 0; None shows all.

    Raises:
        InputError: there is no such step or sample.
        IntegrityError: the tokenizer or a shard is not what the manifest names.
    """
    if not 0 <= step < order.num_steps:
        raise InputError(f"there is no step {step}; the data has steps 0 to {order.num_steps - 1}")
    if sample is not None and not 0 <= sample < order.batch_rows:
        raise InputError(f"there is no sample {sample}; a step has samples 0 to {order.batch_rows - 1}")
    tokenizer = load_tokenizer(storage, manifest)
    shown = []
    first = 0  # place in the batch of the range's first row
    for chunk, start, stop in order.step_rows(step):
        low, high = (start, stop) if sample is None else (start + sample - first, start + sample - first + 1)
        if start <= low and high <= stop:
            rows = read_rows(storage, manifest, chunk, low, high)
            shown += [
                _shown(manifest, tokenizer, rows, index, (step, first + low - start + index, chunk, low + index))
                for index in range(high - low)
            ]
        first += stop - start
    return shown


def load_tokenizer(storage: Storage, manifest: DataManifest) -> Tokenizer | None:
    """The tokenizer beside a manifest; None where there is none.

    Raises:
        IntegrityError: it is not the one that the manifest names.
    """
    if manifest.tokenizer.key is None:
        return None
    data = storage.get(manifest.tokenizer.key)
    if sha256_digest(data) != manifest.tokenizer.digest:
        raise IntegrityError(
            f"{storage.uri}/{manifest.tokenizer.key} has {sha256_digest(data)}, the manifest says"
            f" {manifest.tokenizer.digest}; check the data with `llm360 data verify`"
        )
    return Tokenizer.from_str(data.decode())


def _shown(
    manifest: DataManifest, tokenizer: Tokenizer | None, rows: Rows, index: int, place: tuple[int, int, int, int]
) -> ShownSample:
    ids = rows.ids[index]
    pieces = tuple(
        ShownPiece(**span._asdict(), text=None if tokenizer is None else _decode(tokenizer, ids, span))
        for span in rows.documents[index]
    )
    step, sample, chunk, row = place
    source = manifest.sources[int(rows.source[index])].name
    return ShownSample(step, sample, chunk, row, source, pieces, tuple(ids.tolist()))


def _decode(tokenizer: Tokenizer, ids: Ids, span: Span) -> str:
    piece = ids[span.start : span.start + span.length].tolist()
    return str(tokenizer.decode(piece, skip_special_tokens=False))
