"""Moving rows to their places: scatter writes runs of rows sorted by place, gather makes shards of them.

    source 0, rows 0…   ──► run 0: [rows of shard 0 | of shard 1 | …]  ┐ shard 1 is read from all runs, one range each
    source 0, rows n…   ──► run 1: [rows of shard 0 | of shard 1 | …]  ┘ and put in order

Both sides read and write long ranges only, whatever the permutation, and hold one run or one shard in memory.
A run is `offsets (uint64, shards + 1), one Arrow stream per shard`.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from llm360.canonical import DIGEST_PREFIX, canonical_json
from llm360.data.manifest import Shard
from llm360.data.rows import GROUP_ROWS, Ids, fixed_binary, from_fixed_binary, shard_schema
from llm360.errors import LLM360Error
from llm360.storage import Storage
from llm360_trainer.prepare.fim import FimRates, RowTurner
from llm360_trainer.prepare.instruct import ChatTokens, conversation_masks
from llm360_trainer.prepare.layout import Layout, ShardPlan
from llm360_trainer.prepare.packing import RowForm, Spans, cut_rows
from llm360_trainer.prepare.parts import TokenLine
from llm360_trainer.prepare.tokenize import load_tokenizer

ZSTD_LEVEL = 3
PLACE = pa.field("place", pa.int64(), nullable=False)


@dataclass(frozen=True)
class Run:
    """Rows `[start, stop)` of a source, all of one copy, to be sorted by their places."""

    index: int
    source: int
    start: int
    stop: int

    @property
    def key(self) -> str:
        """Where the run lies in the scratch folder."""
        return f"runs/{self.index:06d}"


@dataclass(frozen=True)
class WrittenShard:
    """A shard of the data set and what its rows add to the manifest.

    Args:
        shard: As the manifest names it.
        label_counts: `[vocabulary]`, how often each id is a label that counts.
    """

    shard: Shard
    label_counts: NDArray[np.int64]


class ShardTable:
    """The shards written so far, by number, and the sum of their label_counts[vocabulary]."""

    def __init__(self, vocab_size: int) -> None:
        self.shards: dict[int, Shard] = {}
        self.label_counts: NDArray[np.int64] = np.zeros(vocab_size, np.int64)

    def add(self, number: int, written: WrittenShard) -> None:
        """Enter a shard."""
        self.shards[number] = written.shard
        self.label_counts += written.label_counts


def plan_runs(layout: Layout, run_rows: int) -> list[Run]:
    """Cut every source's rows into runs of at most `run_rows`."""
    runs: list[Run] = []
    for source, rows in enumerate(layout.available):
        distinct = layout.distinct(source)
        for copy in range(0, rows, distinct):
            for start in range(copy, copy + distinct, run_rows):
                runs.append(Run(len(runs), source, start, min(start + run_rows, copy + distinct)))
    return runs


@dataclass(frozen=True)
class RowMaker:
    """How rows are made of a source's ids.

    Args:
        form: Length and stride.
        tokenizer: The contents of `tokenizer.json`, for rows that are turned around.
        eos_id: Ends each document.
        fim: Of each source, how often documents are turned around; None never.
        names: Of the sources.
        seed: Of the draws.
        labels_inside: Whether a row's last id is an input too.
        chat: Of each source, the tokens that tell its conversations' parts apart; None where it has none. Empty: none
            has.
    """

    form: RowForm
    tokenizer: bytes
    eos_id: int
    fim: tuple[FimRates | None, ...]
    names: tuple[str, ...]
    seed: int
    labels_inside: bool
    chat: tuple[ChatTokens | None, ...] = ()

    @property
    def has_loss_mask(self) -> bool:
        """Whether rows carry masks: all of them, if some of a source may need them."""
        return any(self.fim) or any(self.chat)

    def make(self, run: Run, ids: Ids, spans: Spans, loss_mask: Ids | None = None) -> pa.Table:
        """A shard's columns of a run's rows.

        Args:
            run: Which rows.
            ids: [rows, row_tokens].
            spans: Their documents.
            loss_mask: [rows, row_tokens - 1] of conversations; None where all labels count that are no padding.
        """
        rates = self.fim[run.source]
        if self.has_loss_mask and loss_mask is None:
            loss_mask = np.ones((len(ids), self.form.row_tokens - 1), np.uint8)
        if rates is not None and loss_mask is not None:
            turner = RowTurner(
                load_tokenizer(self.tokenizer),
                self.eos_id,
                rates,
                self.seed,
                self.names[run.source],
                self.labels_inside,
            )
            ids = ids.copy()
            turned_spans = []
            rows = ((run.start + row, ids[row], spans.of_row(row)) for row in range(len(ids)))
            for row, turned in enumerate(turner.turn(rows)):
                ids[row], loss_mask[row] = turned.ids, turned.loss_mask
                turned_spans.append(turned.spans)
            spans = Spans.of_rows(turned_spans)
        return rows_table(ids, np.full(len(ids), run.source), spans.to_arrow(), loss_mask)


def scatter(scratch: Storage, lines: tuple[TokenLine, ...], layout: Layout, maker: RowMaker, run: Run) -> None:
    """Cut a run's rows from the source's ids and store them sorted by place."""
    line = lines[run.source]
    rows, first_row = run.stop - run.start, run.start % layout.distinct(run.source)
    ids, document_starts, first_document = line.read(scratch, *maker.form.reach(first_row, rows))
    spans = cut_rows(document_starts, first_document, first_row, rows, maker.form)
    places = layout.places(run.source, np.arange(run.start, run.stop))
    loss_mask = None
    if maker.chat and (tokens := maker.chat[run.source]):
        loss_mask = _conversation_rows(scratch, line, document_starts, maker.form, first_row, rows, tokens)
    table = maker.make(run, maker.form.cut(ids), spans, loss_mask)
    table = table.add_column(0, PLACE, pa.array(places))
    order = np.argsort(places)
    order = order[np.searchsorted(places[order], 0) :]  # those with place -1 are not taken
    table, places = table.take(order), places[order]
    bounds = np.searchsorted(places, [shard.start for shard in layout.shards] + [layout.rows])
    output = io.BytesIO()
    offsets = np.zeros(len(bounds), dtype="<u8")
    output.write(offsets.tobytes())
    for number, (low, high) in enumerate(itertools.pairwise(bounds)):
        offsets[number] = output.tell()
        if low < high:
            with pa.ipc.new_stream(output, table.schema) as stream:
                stream.write_table(table.slice(low, high - low))
    offsets[-1] = output.tell()
    output.seek(0)
    output.write(offsets.tobytes())
    scratch.put(run.key, output.getvalue())


def _conversation_rows(
    scratch: Storage,
    line: TokenLine,
    document_starts: NDArray[np.int64],
    form: RowForm,
    first_row: int,
    rows: int,
    tokens: ChatTokens,
) -> NDArray[np.uint8]:
    """loss_mask[rows, row_tokens - 1] of rows of conversations.

    What counts follows from a whole document, so the one that the first row cuts is read from its beginning, and one id
    more at the end, which tells the kind of a document of which the last row has the first id alone.
    """
    start, stop = form.reach(first_row, rows)
    begin = int(document_starts[np.searchsorted(document_starts, start, side="right") - 1])
    ids, _, _ = line.read(scratch, begin, min(stop + 1, line.tokens))
    later = document_starts[(begin < document_starts) & (document_starts < stop)] - begin
    mask = conversation_masks(ids, later.tolist(), tokens)
    return RowForm(form.row_tokens - 1, form.stride).cut(mask[start + 1 - begin : stop - begin])


def gather(
    scratch: Storage, output: Storage, runs: list[Run], layout: Layout, vocab_size: int, dtype: str, shard_number: int
) -> WrittenShard:
    """Collect a shard's rows from all runs, write it, then record it in the scratch folder."""
    plan = layout.shards[shard_number]
    tables = []
    for run in runs:
        begin, end = np.frombuffer(scratch.get_range(run.key, 8 * shard_number, 16), "<u8").tolist()
        if begin < end:
            tables.append(pa.ipc.open_stream(scratch.get_range(run.key, begin, end - begin)).read_all())
    table = pa.concat_tables(tables).combine_chunks()
    places = table["place"].to_numpy()
    order = np.argsort(places)
    if not np.array_equal(places[order], np.arange(plan.start, plan.stop)):
        raise LLM360Error(f"the scratch files in {scratch.uri} do not fit together; remove them and start again")
    table = table.drop_columns(["place"]).take(order)
    written = write_shard(output, plan.key, table, vocab_size, dtype)
    scratch.put(_record_key(plan), _pack(written))
    return written


def rows_table(
    ids: Ids, source: NDArray[np.int64], documents: pa.ListArray[Any], loss_mask: Ids | None = None
) -> pa.Table:
    """A shard's columns.

    Args:
        ids: [rows, row_tokens].
        source: [rows].
        documents: The documents of each row.
        loss_mask: [rows, row_tokens - 1] uint8; None where all labels count.
    """
    schema = shard_schema(ids.shape[1], ids.dtype.name, has_loss_mask=loss_mask is not None)
    masks = [] if loss_mask is None else [fixed_binary(loss_mask)]
    return pa.table([fixed_binary(ids), *masks, pa.array(source, pa.uint16()), documents], schema=schema)


def write_shard(output: Storage, key: str, table: pa.Table, vocab_size: int, dtype: str) -> WrittenShard:
    """Store rows as a Parquet file under a key; the same rows give the same bytes."""
    sink = io.BytesIO()
    pq.write_table(
        table.combine_chunks(),
        sink,
        row_group_size=GROUP_ROWS,
        compression="zstd",
        compression_level=ZSTD_LEVEL,
        use_dictionary=["source"],  # type: ignore[arg-type]  # the stubs know bool only
        write_statistics=["source"],  # of ids they would repeat whole rows
    )
    data = sink.getvalue()
    output.put(key, data)
    digest = DIGEST_PREFIX + hashlib.sha256(data).hexdigest()
    labels = from_fixed_binary(table["ids"], dtype)[:, 1:]
    if "loss_mask" in table.column_names:
        labels = labels[from_fixed_binary(table["loss_mask"], "uint8") == 1]
    return WrittenShard(
        Shard(key=key, rows=table.num_rows, bytes=len(data), sha256=digest),
        np.bincount(labels.reshape(-1), minlength=vocab_size),
    )


def find_shards(scratch: Storage, layout: Layout, vocab_size: int) -> ShardTable:
    """The shards that an earlier, interrupted preparation recorded."""
    present = {info.key for info in scratch.list("shards/")}
    table = ShardTable(vocab_size)
    for number, plan in enumerate(layout.shards):
        if _record_key(plan) in present:
            table.add(number, _unpack(scratch.get(_record_key(plan))))
    return table


def _record_key(plan: ShardPlan) -> str:
    return f"shards/{plan.start:015d}"


def _pack(written: WrittenShard) -> bytes:
    return canonical_json(written.shard.model_dump()) + b"\n" + written.label_counts.astype("<i8").tobytes()


def _unpack(data: bytes) -> WrittenShard:
    shard, _, counts = data.partition(b"\n")
    return WrittenShard(Shard.model_validate_json(shard), np.frombuffer(counts, "<i8").astype(np.int64))
