"""Importing rows in the form in which LLM360 published Amber's data: a JSON object a line, `token_ids` and `source`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm360.canonical import DIGEST_PREFIX, digest_of, sha256_digest
from llm360.data.manifest import TOKENIZER_KEY, DataManifest, Source, TokenizerInfo
from llm360.data.rows import Ids
from llm360.errors import InputError
from llm360.storage import Storage
from llm360_trainer.prepare.documents import whole_lines
from llm360_trainer.prepare.inputs import InputFile, digest_files, find_files
from llm360_trainer.prepare.layout import Layout, plan_chunk_rows, plan_shard_rows
from llm360_trainer.prepare.packing import whole_row_spans
from llm360_trainer.prepare.progress import Progress, silent
from llm360_trainer.prepare.publish import (
    MADE_WITH,
    SKIPPED_LINES,
    Say,
    chunks_of,
    entropy,
    find_existing,
    library_versions,
    publish,
)
from llm360_trainer.prepare.shuffle import ShardTable, rows_table, write_shard
from llm360_trainer.prepare.tokenize import end_of_document, ids_dtype, load_tokenizer, vocabulary_size

AMBER_ROW_TOKENS = 2049
# Ids of the LLaMA tokenizer, with which Amber was made.
AMBER_VOCAB_SIZE = 32_000
# Source of the rows that name none.
UNLABELLED = "unlabelled"
# Bad lines named one by one in a message.
MAX_NAMED = 50
# Lines between two reports of progress.
REPORT_LINES = 1000


@dataclass(frozen=True)
class ImportSettings:
    """What is imported.

    Args:
        paths: Files, folders or globs of `.jsonl`, also `.gz` and `.zst`, in training order.
        tokenizer: The contents of the `tokenizer.json` that gave the ids; None if it is not at hand.
        chunks: Parts of the data between checkpoints.
        row_tokens: Ids that every line must have.
        skip_bad: Leave bad lines out and count them, instead of refusing all.
    """

    paths: tuple[str, ...]
    tokenizer: bytes | None
    chunks: int = 1
    row_tokens: int = AMBER_ROW_TOKENS
    skip_bad: bool = False


@dataclass
class _Counts:
    """What the first reading finds."""

    rows_of_source: dict[str, int] = field(default_factory=dict)
    lines: int = 0
    bad: int = 0
    named: list[str] = field(default_factory=list)


def import_amber(
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
    if settings.chunks < 1 or settings.row_tokens < 2:
        raise InputError(f"--chunks is {settings.chunks}, --row-tokens {settings.row_tokens}; least are 1 and 2")
    vocab_size, eos_id = AMBER_VOCAB_SIZE, None
    if settings.tokenizer is not None:
        tokenizer = load_tokenizer(settings.tokenizer)
        vocab_size, eos_id = vocabulary_size(tokenizer), end_of_document(tokenizer, None)
    files = [file for path in settings.paths for file in find_files(path)]
    for file in files:
        if file.kind != "jsonl":
            raise InputError(f"{file.label} is not .jsonl; rows of the form amber-jsonl lie in .jsonl[.gz|.zst] files")
    recipe = _recipe(settings, files)
    existing = find_existing(output, recipe)
    if existing is not None:
        say(f"the data is already there: {existing.rows:,} rows in {len(existing.chunks)} chunks at {output.uri}")
        return existing
    counts = _count(settings, files, vocab_size, progress)
    if counts.bad:
        _report_bad(settings, counts, say)
    rows = sum(counts.rows_of_source.values())
    if rows < settings.chunks:
        raise InputError(f"the files hold {rows} rows, too few for {settings.chunks} chunks")
    recipe[SKIPPED_LINES] = counts.bad
    dtype = ids_dtype(vocab_size)
    layout = Layout(
        available=tuple(counts.rows_of_source.values()),
        taken=tuple(counts.rows_of_source.values()),
        chunk_rows=plan_chunk_rows(rows, settings.chunks),
        shard_rows=plan_shard_rows(settings.row_tokens * np.dtype(dtype).itemsize),
        seed=None,
        prefix=f"rows-{digest_of(recipe).removeprefix(DIGEST_PREFIX)[:12]}",
    )
    table = _write(settings, files, vocab_size, dtype, list(counts.rows_of_source), layout, output, progress)
    manifest = DataManifest(
        row_tokens=settings.row_tokens,
        labels="next_token",
        dtype=dtype,
        has_loss_mask=False,
        sources=tuple(
            Source(name=name, documents=count, tokens=count * settings.row_tokens, rows=count, dropped_tokens=0)
            for name, count in counts.rows_of_source.items()
        ),
        chunks=tuple(chunks_of(layout, table.shards)),
        tokenizer=TokenizerInfo(
            key=None if settings.tokenizer is None else TOKENIZER_KEY,
            digest="" if settings.tokenizer is None else sha256_digest(settings.tokenizer),
            vocab_size=vocab_size,
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


def parse_row(line: bytes, row_tokens: int, vocab_size: int) -> tuple[list[int], str]:
    """The ids and the source of a line.

    Raises:
        ValueError: says what is wrong with the line.
    """
    try:
        text = line.decode().rstrip()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1})") from error
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text):
            inside = "a list" if text.count("[") > text.count("]") else "an object"
            raise ValueError(f"is not JSON: it is cut off inside {inside} at column {error.colno}") from error
        raise ValueError(f"is not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise ValueError("is JSON nested too deeply") from error
    if not isinstance(value, dict) or not isinstance(value.get("token_ids"), list):
        raise ValueError("is not a JSON object with a list 'token_ids'")
    ids: list[Any] = value["token_ids"]
    if len(ids) != row_tokens:
        raise ValueError(f"has {len(ids):,} ids; a row has {row_tokens:,}")
    wrong = next(
        (number for number, item in enumerate(ids) if type(item) is not int or not 0 <= item < vocab_size), None
    )
    if wrong is not None:
        raise ValueError(f"has {ids[wrong]!r} at position {wrong}; ids are integers from 0 to {vocab_size - 1}")
    source = value.get("source", UNLABELLED)
    if not isinstance(source, str) or not source:
        raise ValueError(f"has the source {source!r}; a source is a name, or left out")
    return ids, source


def _recipe(settings: ImportSettings, files: Sequence[InputFile]) -> dict[str, Any]:
    return {
        "command": "import",
        "format": "amber-jsonl",
        "files": len(files),
        "bytes": sum(file.bytes for file in files),
        "digest": digest_files(files),
        "tokenizer": None if settings.tokenizer is None else sha256_digest(settings.tokenizer),
        "chunks": settings.chunks,
        "row_tokens": settings.row_tokens,
        "skip_bad": settings.skip_bad,
        MADE_WITH: library_versions(),
    }


def _numbered_lines(files: Sequence[InputFile]) -> Iterator[tuple[InputFile, int, bytes]]:
    """Every line that holds something, with its file and number."""
    for file in files:
        for number, line in enumerate(whole_lines(file), start=1):
            if line.strip():
                yield file, number, line


def _count(settings: ImportSettings, files: Sequence[InputFile], vocab_size: int, progress: Progress) -> _Counts:
    """Check every line; count rows and name what is bad."""
    counts = _Counts()
    for file, number, line in _numbered_lines(files):
        counts.lines += 1
        try:
            _, source = parse_row(line, settings.row_tokens, vocab_size)
            counts.rows_of_source[source] = counts.rows_of_source.get(source, 0) + 1
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
    settings: ImportSettings,
    files: Sequence[InputFile],
    vocab_size: int,
    dtype: str,
    names: list[str],
    layout: Layout,
    output: Storage,
    progress: Progress,
) -> ShardTable:
    """Write the good lines as shards, in order."""
    rows = _good_rows(settings, files, vocab_size, dtype)
    seen = [0] * len(names)  # rows of each source so far: the next row's document
    shards = ShardTable(vocab_size)
    for number, plan in enumerate(layout.shards):
        ids = np.empty((plan.stop - plan.start, settings.row_tokens), dtype)
        source = np.empty(len(ids), np.int64)
        documents = np.empty(len(ids), np.int64)
        for index, (row, name) in zip(range(len(ids)), rows, strict=False):
            ids[index], source[index] = row, names.index(name)
            documents[index] = seen[source[index]]
            seen[source[index]] += 1
        table = rows_table(ids, source, whole_row_spans(documents, settings.row_tokens).to_arrow())
        shards.add(number, write_shard(output, plan.key, table, vocab_size, dtype))
        progress("writing", number + 1, len(layout.shards), "")
    return shards


def _good_rows(
    settings: ImportSettings, files: Sequence[InputFile], vocab_size: int, dtype: str
) -> Iterator[tuple[Ids, str]]:
    for _, _, line in _numbered_lines(files):
        try:
            ids, source = parse_row(line, settings.row_tokens, vocab_size)
        except ValueError:
            continue  # named by the first reading
        yield np.array(ids, dtype), source
