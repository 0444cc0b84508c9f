"""Importing rows in the forms in which LLM360 published them: a JSON object a line (lines.py), read twice.

First every line is checked and counted; then, where nothing is wrong or bad lines are left out, shards are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from llm360.canonical import DIGEST_PREFIX, digest_of, sha256_digest
from llm360.data.manifest import MANIFEST_KEY, TOKENIZER_KEY, DataManifest, Source, TokenizerInfo
from llm360.errors import InputError
from llm360.storage import Storage
from llm360_trainer.prepare.documents import whole_lines
from llm360_trainer.prepare.inputs import InputFile, digest_files, find_files
from llm360_trainer.prepare.layout import Layout, plan_chunk_rows, plan_shard_rows
from llm360_trainer.prepare.lines import FORMS, Line, LineForm
from llm360_trainer.prepare.lost import describe_lost, find_lost
from llm360_trainer.prepare.mixes import CHUNK_ORDERS
from llm360_trainer.prepare.packing import whole_row_spans
from llm360_trainer.prepare.progress import Progress, silent
from llm360_trainer.prepare.publish import (
    MADE_WITH,
    SKIPPED_LINES,
    Say,
    chunks_of,
    describe_whole,
    entropy,
    find_existing,
    library_versions,
    publish,
    put_tokenizer,
)
from llm360_trainer.prepare.settings import Labels
from llm360_trainer.prepare.shuffle import ShardTable, rows_table, write_shard
from llm360_trainer.prepare.tokenize import end_of_document, ids_dtype, load_tokenizer, vocabulary_size

_CHUNK_NAME = re.compile(r"(?:^|/)chunk_0*(\d+)\.jsonl")
# Bad lines named one by one in a message.
MAX_NAMED = 50
# Lines between two reports of progress.
REPORT_LINES = 1000


@dataclass(frozen=True)
class ImportSettings:
    """What is imported.

    Args:
        paths: Files, folders or globs of `.jsonl`, also `.gz` and `.zst`, in training order.
        form: Name of the lines' form, one of `FORMS`.
        tokenizer: The contents of the `tokenizer.json` that gave the ids; None if it is not at hand.
        chunks: Parts of the data between checkpoints, of which none is larger than another by more than a row; None
            makes one, or with `chunk_order` one of each file.
        row_tokens: Ids that every row must have; None takes the form's.
        labels: `next_token`, or `inside` for rows of N ids with N-1 predictions (K2).
        chunk_order: One of `CHUNK_ORDERS`, for files named chunk_<number>, of which each is then a chunk; None takes
            files as they are given.
        skip_bad: Leave bad lines out and count them, instead of refusing all.
    """

    paths: tuple[str, ...]
    tokenizer: bytes | None
    form: str = "amber-jsonl"
    chunks: int | None = None
    row_tokens: int | None = None
    labels: Labels = "next_token"
    chunk_order: str | None = None
    skip_bad: bool = False

    @property
    def line_form(self) -> LineForm:
        """The lines' form, with the length of rows that is asked for."""
        form = FORMS[self.form]
        return form if self.row_tokens is None else replace(form, row_tokens=self.row_tokens)

    def check(self) -> None:
        """Refuse impossible numbers.

        Raises:
            InputError: names the setting, its value and what is allowed.
        """
        for name, value, least in (("--chunks", self.chunks, 1), ("--row-tokens", self.row_tokens, 2)):
            if value is not None and value < least:
                raise InputError(f"{name} is {value}; the least is {least}")
        if self.chunk_order is not None and self.chunks is not None:
            raise InputError(
                "--chunks has no meaning with --chunk-order, which makes each file a chunk; leave one away"
            )


@dataclass
class _Counts:
    """What the first reading finds."""

    rows_of_source: dict[str, int] = field(default_factory=dict)
    rows_of_file: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    bad: int = 0
    named: list[str] = field(default_factory=list)


def import_rows(
    settings: ImportSettings, output: Storage, *, say: Say = lambda _: None, progress: Progress = silent
) -> DataManifest:
    """Make a data set of published rows, in their order; reads the input twice, holding one shard in memory.

    The document of a row is the row itself: the published form does not tell what it was cut from.

    Args:
        settings: What to import.
        output: Rooted at the data set's folder.
        say: Called with sentences for the user.
        progress: Called as lines are read.

    Raises:
        InputError: lines are bad, all of which are named, or the folder holds a data set made otherwise.
    """
    form, eos_id = settings.line_form, None
    settings.check()
    if settings.tokenizer is not None:
        tokenizer = load_tokenizer(settings.tokenizer)
        eos_id = end_of_document(tokenizer, None)
        form = replace(form, vocab_size=vocabulary_size(tokenizer))
    files = _find_lines(settings)
    recipe = _recipe(settings, files)
    existing = find_existing(output, recipe)
    if existing is not None:
        put_tokenizer(output, settings.tokenizer)
        if lost := find_lost(output, existing):
            raise InputError(
                f"{describe_lost(output, existing, lost)}; remove {MANIFEST_KEY} and import again",
                reason="DataIncomplete",
            )
        say(describe_whole(output, existing))
        return existing
    counts = _count(form, files, progress)
    if counts.bad:
        _report_bad(settings, counts, say)
    recipe[SKIPPED_LINES] = counts.bad
    dtype = ids_dtype(form.vocab_size)
    layout = _layout(settings, files, counts, form.row_tokens * np.dtype(dtype).itemsize, digest_of(recipe))
    table = _write(form, files, dtype, list(counts.rows_of_source), layout, output, progress)
    manifest = DataManifest(
        row_tokens=form.row_tokens,
        labels=settings.labels,
        dtype=dtype,
        has_loss_mask=form.has_loss_mask,
        sources=tuple(
            Source(name=name, documents=count, tokens=count * form.row_tokens, rows=count, dropped_tokens=0)
            for name, count in counts.rows_of_source.items()
        ),
        chunks=tuple(chunks_of(layout, table.shards)),
        tokenizer=TokenizerInfo(
            key=None if settings.tokenizer is None else TOKENIZER_KEY,
            digest="" if settings.tokenizer is None else sha256_digest(settings.tokenizer),
            vocab_size=form.vocab_size,
            eos_id=eos_id,
        ),
        shuffle="input",
        seed=None,
        unigram_entropy=entropy(table.label_counts),
        recipe=recipe,
    )
    publish(output, manifest, settings.tokenizer)
    say(f"imported {manifest.rows:,} rows of {manifest.row_tokens} ids, {counts.bad} bad lines left out")
    return manifest


def _find_lines(settings: ImportSettings) -> list[InputFile]:
    """The files in the order in which they are read."""
    files = [file for path in settings.paths for file in find_files(path)]
    for file in files:
        if file.kind != "jsonl":
            raise InputError(
                f"{file.label} is not .jsonl; rows of the form {settings.form} lie in .jsonl[.gz|.zst] files"
            )
    return files if settings.chunk_order is None else in_chunk_order(settings.chunk_order, files)


def _layout(
    settings: ImportSettings, files: Sequence[InputFile], counts: _Counts, row_bytes: int, digest: str
) -> Layout:
    """Rows in the order of the input, in chunks of one file each or of equal numbers."""
    rows = tuple(counts.rows_of_source.values())
    chunk_rows = plan_chunk_rows(sum(rows), settings.chunks or 1)
    if settings.chunk_order is not None:
        chunk_rows = tuple(counts.rows_of_file.get(file.label, 0) for file in files)
    if min(chunk_rows) == 0:
        raise InputError(f"the files hold {sum(rows)} rows, too few for {len(chunk_rows)} chunks")
    prefix = f"rows-{digest.removeprefix(DIGEST_PREFIX)[:12]}"
    return Layout(rows, rows, chunk_rows, plan_shard_rows(row_bytes), None, prefix)


def _recipe(settings: ImportSettings, files: Sequence[InputFile]) -> dict[str, Any]:
    return {
        "command": "import",
        "format": settings.form,
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "digest": digest_files(files),
        "tokenizer": None if settings.tokenizer is None else sha256_digest(settings.tokenizer),
        "chunks": len(files) if settings.chunk_order is not None else settings.chunks or 1,
        "row_tokens": settings.line_form.row_tokens,
        **({} if settings.labels == "next_token" else {"labels": settings.labels}),
        **({} if settings.chunk_order is None else {"chunk_order": settings.chunk_order}),
        "skip_bad": settings.skip_bad,
        MADE_WITH: library_versions(),
    }


def _numbered_lines(files: Sequence[InputFile]) -> Iterator[tuple[InputFile, int, bytes]]:
    """Every line that holds something, with its file and number."""
    for file in files:
        for number, line in enumerate(whole_lines(file), start=1):
            if line.strip():
                yield file, number, line


def _count(form: LineForm, files: Sequence[InputFile], progress: Progress) -> _Counts:
    """Check every line; count rows and name what is bad."""
    counts = _Counts()
    for file, number, line in _numbered_lines(files):
        counts.lines += 1
        try:
            source = form.parse(line, form).source
            counts.rows_of_source[source] = counts.rows_of_source.get(source, 0) + 1
            counts.rows_of_file[file.label] = counts.rows_of_file.get(file.label, 0) + 1
        except ValueError as error:
            counts.bad += 1
            if len(counts.named) < MAX_NAMED:
                counts.named.append(f"{file.key} line {number} {error}")
        if counts.lines % REPORT_LINES == 0:
            progress("checking lines", counts.lines, 0, f"{counts.bad} bad")
    return counts


def _report_bad(settings: ImportSettings, counts: _Counts, say: Say) -> None:
    more = f"\n  and {counts.bad - len(counts.named)} more" if counts.bad > len(counts.named) else ""
    named = "".join(f"\n  {problem}" for problem in counts.named) + more
    if not settings.skip_bad:
        raise InputError(
            f"{counts.bad} of {counts.lines} lines cannot be used; correct them, or leave them out with"
            f" --skip-bad:{named}",
            reason="BadLines",
        )
    say(f"leaving out {counts.bad} of {counts.lines} lines:{named}")


def _write(
    form: LineForm,
    files: Sequence[InputFile],
    dtype: str,
    names: list[str],
    layout: Layout,
    output: Storage,
    progress: Progress,
) -> ShardTable:
    """Write the good lines as shards, in order."""
    lines = _good_lines(form, files)
    seen = [0] * len(names)  # rows of each source so far: the next row's document
    shards = ShardTable(form.vocab_size)
    for number, plan in enumerate(layout.shards):
        rows = plan.stop - plan.start
        ids = np.empty((rows, form.row_tokens), dtype)
        source = np.empty(rows, np.int64)
        documents = np.empty(rows, np.int64)
        loss_mask = np.ones((rows, form.row_tokens - 1), np.uint8)
        for index, line in zip(range(rows), lines, strict=False):
            ids[index], source[index] = line.ids, names.index(line.source)
            documents[index] = seen[source[index]]
            seen[source[index]] += 1
            if line.loss_mask is not None:
                loss_mask[index] = line.loss_mask
        spans = whole_row_spans(documents, form.row_tokens).to_arrow()
        table = rows_table(ids, source, spans, loss_mask if form.has_loss_mask else None)
        shards.add(number, write_shard(output, plan.key, table, form.vocab_size, dtype))
        progress("writing", number + 1, len(layout.shards), "")
    return shards


def _good_lines(form: LineForm, files: Sequence[InputFile]) -> Iterator[Line]:
    for _, _, line in _numbered_lines(files):
        try:
            yield form.parse(line, form)
        except ValueError:
            continue  # named by the first reading


def in_chunk_order(name: str, files: Sequence[InputFile]) -> list[InputFile]:
    """Files of chunks in the order in which a run read them.

    Args:
        name: One of `CHUNK_ORDERS`.
        files: Each named `chunk_<number>` before its ending, every chunk of the run among them once.

    Raises:
        InputError: a file is not named so, or not every chunk is there once.
    """
    order = CHUNK_ORDERS[name]
    by_number: dict[int, InputFile] = {}
    for file in files:
        match = _CHUNK_NAME.search(file.key)
        number = int(match[1]) if match else -1
        if number not in order or number in by_number:
            raise InputError(
                f"{file.label} is no chunk of {name}, or a second one; files are named chunk_0.jsonl to"
                f" chunk_{len(order) - 1}.jsonl, or end in .gz or .zst as well"
            )
        by_number[number] = file
    missing = [number for number in order if number not in by_number]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(order)} chunks of {name} are missing, chunk_{min(missing)} among them;"
            " give them all, or leave --chunk-order away"
        )
    return [by_number[number] for number in order]
