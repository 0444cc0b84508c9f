"""`prepare`: the whole way from text files to a data set, in three passes that can be interrupted anywhere.

1. tokenize: each block of documents becomes a part in the scratch folder.
2. scatter: the parts' ids, cut into rows, become runs sorted by where the rows go.
3. gather: each shard collects its rows from the runs.

The manifest is written last and only where none is: then the data set exists. Scratch files and shards carry the
digest of the recipe in their keys, so preparations with other settings neither reuse nor overwrite them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from llm360.canonical import DIGEST_PREFIX, digest_of, sha256_digest
from llm360.data.held_out import RECIPE_KEY, HeldOut
from llm360.data.manifest import TOKENIZER_KEY, DataManifest, Source, TokenizerInfo
from llm360.errors import InputError, IntegrityError, StorageError
from llm360.storage import Storage
from llm360_trainer.prepare import inputs
from llm360_trainer.prepare.conversations import Conversation, encode_conversations, text_of
from llm360_trainer.prepare.documents import read_piece
from llm360_trainer.prepare.fim import find_sentinels
from llm360_trainer.prepare.findings import Findings, collect_findings, write_findings
from llm360_trainer.prepare.held_out import Copy, copy_held_out, write_scratch
from llm360_trainer.prepare.instruct import find_chat_tokens
from llm360_trainer.prepare.layout import Layout, plan_layout
from llm360_trainer.prepare.lost import check_repairable, check_repaired, describe_lost, find_lost, find_whole
from llm360_trainer.prepare.packing import RowForm
from llm360_trainer.prepare.parts import (
    Block,
    PartId,
    PartInfo,
    PartTable,
    TokenLine,
    blocks_of,
    find_parts,
    write_part,
)
from llm360_trainer.prepare.progress import Progress, silent
from llm360_trainer.prepare.publish import (
    MADE_WITH,
    Say,
    chunks_of,
    describe_whole,
    entropy,
    find_existing,
    library_versions,
    publish,
    put_tokenizer,
)
from llm360_trainer.prepare.runner import Runner, ray_session
from llm360_trainer.prepare.settings import PrepareSettings
from llm360_trainer.prepare.shuffle import (
    RowMaker,
    Run,
    ShardTable,
    WrittenShard,
    find_shards,
    gather,
    plan_runs,
    scatter,
)
from llm360_trainer.prepare.tokenize import (
    encode_documents,
    end_of_document,
    ids_dtype,
    load_tokenizer,
    vocabulary_size,
)

# Characters of a block: about a second of one core's work.
BLOCK_CHARS = 2 * 2**20
# Bytes of ids in a run: what one core holds in memory while it sorts.
RUN_BYTES = 32 * 2**20


@dataclass(frozen=True)
class _Work:
    """One preparation under way: where it writes and what it knows before the first document."""

    settings: PrepareSettings
    output: Storage
    recipe: dict[str, Any]
    vocab_size: int
    eos_id: int
    dtype: Literal["uint16", "uint32"]
    block_chars: int
    run_bytes: int

    @property
    def rows_prefix(self) -> str:
        return f"rows-{_short_name(self.recipe)}"

    @property
    def scratch_prefix(self) -> str:
        cuts = [self.block_chars, self.run_bytes, inputs.SPLIT_BYTES, inputs.SPLIT_FILES]
        return f"scratch/{_short_name([self.recipe, cuts])}"

    @property
    def scratch(self) -> Storage:
        return self.output.at(self.scratch_prefix)

    @property
    def row_bytes(self) -> int:
        return self.settings.form.row_tokens * np.dtype(self.dtype).itemsize

    @property
    def maker(self) -> RowMaker:
        settings = self.settings
        return RowMaker(
            form=settings.form,
            tokenizer=settings.tokenizer,
            eos_id=self.eos_id,
            fim=tuple(source.fim for source in settings.sources),
            names=tuple(source.name for source in settings.sources),
            seed=settings.seed,
            labels_inside=settings.labels == "inside",
            chat=tuple(
                find_chat_tokens(load_tokenizer(settings.tokenizer), self.eos_id) if source.chat else None
                for source in settings.sources
            ),
        )


def prepare(
    settings: PrepareSettings,
    output: Storage,
    *,
    session: Callable[[], AbstractContextManager[Runner]] | None = None,
    say: Say = lambda _: None,
    progress: Progress = silent,
    block_chars: int = BLOCK_CHARS,
    run_bytes: int = RUN_BYTES,
) -> DataManifest:
    """Make a data set, or go on making it, or find that it is there.

    The result depends on the settings and the contents of the inputs only: not on cores, `block_chars`, `run_bytes`
    or interruptions.

    Args:
        settings: What to prepare.
        output: Rooted at the data set's folder.
        session: Opens the runner, entered only when there is work; a Ray on this machine by default.
        say: Called with sentences for the user.
        progress: Called as parts of the work are done.
        block_chars: Characters tokenized in one task.
        run_bytes: Bytes of ids sorted in one task.

    Raises:
        InputError: settings or inputs are unusable, or the folder holds a data set made otherwise.
        IntegrityError: files that the data set had lost and that were made again have other bytes.
        StorageError: the store fails.
    """
    settings.check()
    tokenizer = load_tokenizer(settings.tokenizer)
    vocab_size = vocabulary_size(tokenizer)
    eos_id = end_of_document(tokenizer, settings.eos)
    if any(source.fim for source in settings.sources):
        find_sentinels(tokenizer)  # refuses before any work
    if any(source.chat for source in settings.sources):
        find_chat_tokens(tokenizer, eos_id)
    say("reading the inputs' digests")
    files = [source.files() for source in settings.sources]
    recipe = _recipe(settings, files, eos_id)
    existing = find_existing(output, recipe)
    lost: list[str] = []
    if existing is not None:
        put_tokenizer(output, settings.tokenizer)
        lost = find_lost(output, existing)
        if not lost:
            say(describe_whole(output, existing))
            return existing
        check_repairable(output, existing, recipe, lost)
        say(f"{describe_lost(output, existing, lost)}: making what is lost again")
    work = _Work(settings, output, recipe, vocab_size, eos_id, ids_dtype(vocab_size), block_chars, run_bytes)
    try:
        with _LazyRunner(session or partial(ray_session, say=say)) as runner:
            lines, findings, held_out = _tokenize(work, files, runner, say, progress)
            layout = _layout(work, lines)
            table = _shuffle(work, lines, layout, runner, progress, None if existing is None else frozenset(lost))
    except InputError:
        _remove_scratch(work)  # other input or other settings use other scratch files
        raise
    except StorageError:
        # Perhaps another process that makes the same has finished, and removed the scratch files that both used.
        existing = find_whole(output, recipe)
        if existing is None:
            raise
        _remove_scratch(work)
        say(describe_whole(output, existing))
        return existing
    if existing is not None:
        try:
            check_repaired(output, existing, lost, [*table.shards.values(), *(held_out.files if held_out else ())])
        except IntegrityError:
            _remove_scratch(work)  # files made of it again would be as wrong
            raise
    manifest = existing or _manifest(work, lines, findings, held_out, layout, table)
    publish(output, manifest, settings.tokenizer)
    _remove_scratch(work)
    say(
        f"prepared {manifest.rows:,} rows of {manifest.row_tokens} ids in {len(manifest.chunks)} chunks at {output.uri}"
    )
    return manifest


def _short_name(value: Any) -> str:
    return digest_of(value).removeprefix(DIGEST_PREFIX)[:12]


def _recipe(settings: PrepareSettings, files: Sequence[Sequence[inputs.InputFile]], eos_id: int) -> dict[str, Any]:
    """The arguments and the digests of everything read: equal recipes give equal rows."""
    recipe: dict[str, Any] = {
        "command": "prepare",
        "sources": [
            {
                "name": source.name,
                "files": len(found),
                "bytes": sum(file.bytes for file in found),
                "digest": inputs.digest_files(found),
                "weight": None if source.weight is None else str(source.weight),
                **({} if source.times == 1 else {"times": str(source.times)}),
                **({} if source.fim is None else {"fim": source.fim.to_json()}),
                **({"chat": True} if source.chat else {}),
            }
            for source, found in zip(settings.sources, files, strict=True)
        ],
        "tokenizer": sha256_digest(settings.tokenizer),
        "eos_id": eos_id,
        "sequence_length": settings.sequence_length,
        "chunks": settings.chunks,
        "max_rows": settings.max_rows,
        "seed": settings.seed,
        "shuffle": settings.shuffle,
        "txt_document": settings.txt_document,
        MADE_WITH: library_versions(),
    }
    # What is as it is by default is left out: data prepared before there was a choice is still the same data.
    held_out = None if settings.held_out is None else settings.held_out.to_json()
    optional: dict[str, Any] = {"recipe": settings.recipe_name, "labels": settings.labels, "packing": settings.packing}
    optional |= {RECIPE_KEY: held_out}
    usual = {"recipe": None, "labels": "next_token", "packing": "disjoint", RECIPE_KEY: None}
    return recipe | {name: value for name, value in optional.items() if value != usual[name]}


class _LazyRunner(contextlib.ExitStack):
    """Opens the runner when the first work is there: starting Ray takes seconds, finding nothing to do none."""

    def __init__(self, session: Callable[[], AbstractContextManager[Runner]]) -> None:
        super().__init__()
        self._session = session
        self._runner: Runner | None = None

    def get(self) -> Runner:
        if self._runner is None:
            self._runner = self.enter_context(self._session())
        return self._runner


def _tokenize(
    work: _Work, files: Sequence[Sequence[inputs.InputFile]], runner: _LazyRunner, say: Say, progress: Progress
) -> tuple[tuple[TokenLine, ...], Findings, Copy | None]:
    """Pass 1: every block that is not there yet.

    Returns:
        Each source's ids as a line of parts, what its documents hold, and the copy of those held out.
    """
    splits = inputs.plan_splits(files, work.settings.txt_document)
    table = PartTable(len(splits), find_parts(work.scratch))
    if table.parts:
        say(f"going on where it stopped: {len(table.parts)} blocks of documents are tokenized already")
    if table.unfinished:
        how = (work.settings.txt_document, work.settings.held_out, work.block_chars)
        reader = partial(_read_blocks, *how, frozenset(table.parts))
        keeps = work.settings.held_out is not None
        writer = partial(_write_block, work.scratch, work.settings.tokenizer, work.eos_id, work.dtype, keeps)
        started, tokens = time.monotonic(), 0
        for part, info in runner.get().expand(reader, writer, [splits[split] for split in table.unfinished]):
            table.add(part, info)
            tokens += info.tokens
            rate = tokens / max(time.monotonic() - started, 1e-9)
            done = len(splits) - len(table.unfinished)
            progress("tokenizing", done, len(splits), f"{tokens:,} tokens, {rate:,.0f} tokens/s")
    of_source: list[list[tuple[PartId, PartInfo]]] = [[] for _ in work.settings.sources]
    for part, info in sorted(table.parts.items()):
        of_source[splits[part.split].source].append((part, info))
    held_out = None
    if work.settings.held_out is not None:
        keys = [[part.held_out_key for part, _ in found] for found in of_source]
        held_out = copy_held_out(work.scratch, keys, work.output, f"held-out-{_short_name(work.recipe)}")
    findings = collect_findings(
        work.scratch,
        [[part.findings_key for part, _ in found] for found in of_source],
        absent=None if held_out is None else held_out.hashes,
    )
    return tuple(TokenLine.of(found, work.dtype) for found in of_source), findings, held_out


def _read_blocks(
    txt_document: str, rule: HeldOut | None, block_chars: int, present: frozenset[PartId], split: inputs.Split
) -> Iterator[Block]:
    """The split's blocks that are not tokenized yet."""
    documents = (document for piece in split.pieces for document in read_piece(piece, txt_document))
    return (block for block in blocks_of(split.index, documents, block_chars, rule) if block.part not in present)


def _write_block(
    scratch: Storage, tokenizer: bytes, eos_id: int, dtype: str, keeps_held_out: bool, block: Block
) -> tuple[PartId, PartInfo]:
    texts = [text_of(document) for document in block.documents]
    conversations = [document for document in block.documents if isinstance(document, Conversation)]
    loaded = load_tokenizer(tokenizer)
    if conversations:  # then all are: a block is of one source
        lengths, ids = encode_conversations(loaded, find_chat_tokens(loaded, eos_id), dtype, conversations)
    else:
        lengths, ids = encode_documents(loaded, eos_id, dtype, texts)
    if keeps_held_out:
        write_scratch(scratch, block.part.held_out_key, block.held_out)
    write_findings(scratch, block.part.findings_key, texts)  # first: a block is done once its part is there
    return block.part, write_part(scratch, block.part, block.last, lengths, ids)


def _layout(work: _Work, lines: Sequence[TokenLine]) -> Layout:
    settings = work.settings
    return plan_layout(
        names=[source.name for source in settings.sources],
        available=[settings.form.rows_in(line.tokens) for line in lines],
        weights=[source.weight for source in settings.sources],
        chunks=settings.chunks,
        max_rows=settings.max_rows,
        row_bytes=work.row_bytes,
        seed=settings.order_seed,
        prefix=work.rows_prefix,
        times=[source.times for source in settings.sources],
        is_dealt=settings.is_dealt,
    )


def _shuffle(
    work: _Work,
    lines: tuple[TokenLine, ...],
    layout: Layout,
    runner: _LazyRunner,
    progress: Progress,
    only: frozenset[str] | None,
) -> ShardTable:
    """Passes 2 and 3: every run and shard that is not there yet; of shards those with the keys `only`, or all."""
    table = find_shards(work.scratch, layout, work.vocab_size)
    wanted = [number for number, plan in enumerate(layout.shards) if only is None or plan.key in only]
    # A shard that is lost is made again, whatever the scratch files say of it.
    todo = [number for number in wanted if only is not None or number not in table.shards]
    if not todo:
        return table
    runs = plan_runs(layout, max(1, work.run_bytes // work.row_bytes))
    present = {info.key for info in work.scratch.list("runs/")}
    missing = [run for run in runs if run.key not in present]
    if missing:
        sort = partial(_scatter, work.scratch, lines, layout, work.maker)
        for done, _ in enumerate(runner.get().map(sort, missing), start=len(runs) - len(missing) + 1):
            progress("sorting", done, len(runs), "")
    collect = partial(_gather, work.scratch, work.output, runs, layout, work.vocab_size, work.dtype)
    for done, (number, written) in enumerate(runner.get().map(collect, todo), start=1):
        table.add(number, written)
        progress("writing", len(wanted) - len(todo) + done, len(wanted), "")
    return table


def _scatter(scratch: Storage, lines: tuple[TokenLine, ...], layout: Layout, maker: RowMaker, run: Run) -> int:
    scatter(scratch, lines, layout, maker, run)
    return run.index


def _gather(
    scratch: Storage, output: Storage, runs: list[Run], layout: Layout, vocab_size: int, dtype: str, number: int
) -> tuple[int, WrittenShard]:
    return number, gather(scratch, output, runs, layout, vocab_size, dtype, number)


def _manifest(
    work: _Work,
    lines: Sequence[TokenLine],
    findings: Findings,
    held_out: Copy | None,
    layout: Layout,
    table: ShardTable,
) -> DataManifest:
    settings = work.settings
    sources = [
        Source(
            name=source.name,
            weight=None if source.weight is None else float(source.weight),
            documents=line.documents,
            tokens=line.tokens,
            rows=taken,
            dropped_tokens=line.tokens - tokens_in_rows(settings.form, min(taken, layout.distinct(number))),
            duplicates=findings.duplicates[number],
            personal=findings.personal[number],
        )
        for number, (source, line, taken) in enumerate(zip(settings.sources, lines, layout.taken, strict=True))
    ]
    return DataManifest(
        row_tokens=settings.form.row_tokens,
        labels=settings.labels,
        dtype=work.dtype,
        has_loss_mask=work.maker.has_loss_mask,
        sources=tuple(sources),
        chunks=tuple(chunks_of(layout, table.shards)),
        tokenizer=TokenizerInfo(
            key=TOKENIZER_KEY,
            digest=sha256_digest(settings.tokenizer),
            vocab_size=work.vocab_size,
            eos_id=work.eos_id,
        ),
        shuffle=settings.shuffle,
        seed=settings.order_seed,
        unigram_entropy=entropy(table.label_counts),
        duplicates=findings.all_duplicates,
        held_out=None if held_out is None else held_out.files,
        recipe=work.recipe,
    )


def tokens_in_rows(form: RowForm, rows: int) -> int:
    """Ids that so many rows hold, those counted once that two neighbours share."""
    return form.reach(0, rows)[1] if rows else 0


def _remove_scratch(work: _Work) -> None:
    """Remove the scratch files, by their keys in the output: so a folder goes with its last file."""
    for info in list(work.output.list(f"{work.scratch_prefix}/")):
        work.output.delete(info.key)
