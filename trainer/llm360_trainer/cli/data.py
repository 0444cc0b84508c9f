"""`llm360 data`: prepare, import, show and verify training data.

The modules that do the work bring Ray and Arrow, which take seconds to import; each is imported by the one
sub-command that needs it, so that `--help` and a mistyped option are answered at once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm360.cli.arguments import add_command, add_output
from llm360.errors import InputError, nearest
from llm360.storage import open_storage

if TYPE_CHECKING:
    from llm360.data.manifest import DataManifest
    from llm360_trainer.prepare.inputs import SourceSpec
    from llm360_trainer.prepare.settings import PrepareSettings

PREPARE_EXAMPLES = """\
A document is a line (or a whole file) of .txt, the "text" of a line of .jsonl[.gz|.zst], or of a Parquet row. Its
ids, without special tokens, and then one end-of-document id are put end to end per source, in the order of the
input, and cut into rows of N+1 ids that do not overlap; what is left at a source's end is dropped and counted.

Without weights every row is taken once. With weights the mix is as large as it can be without repeating a source:
the source that runs out first sets the size. The same input and seed give the same bytes on any number of cores.
An interrupted preparation goes on where it stopped when the same command is given again. Where the data is there but
has lost files, they are made again.

--recipe takes shares, times, fill-in-the-middle, chunks, packing, labels and order of a published run: amber,
crystalcoder-stage1, crystalcoder-stage2, crystalcoder-stage3, k2. Its sources are named when one is missing.

examples:
  llm360 data prepare --source wiki=wiki.jsonl.zst --tokenizer tokenizer.json --sequence-length 2048 --out data/wiki
  llm360 data prepare --source wiki=wiki/:0.3 --source code='code/**/*.parquet:0.7' --tokenizer tokenizer.json \\
      --sequence-length 2048 --chunks 360 --seed 42 --out s3://bucket/data
  llm360 data prepare --source talk=talk.jsonl --chat talk --tokenizer crystalchat.json --sequence-length 2048 \\
      --packing overlapping --out data/talk
  llm360 data prepare --recipe amber --source arxiv=arxiv/ --source book=book/ … --tokenizer llama.json --out data/am

exit codes:
  0 the data is there · 1 failed · 2 bad input · 130 interrupted (Ctrl-C) · 143 ended by SIGTERM
"""

IMPORT_EXAMPLES = """\
amber-jsonl: each line a JSON object with "token_ids", 2,049 ids, and "source".
crystal-jsonl: "token_ids", "label_ids" and "loss_mask" of 2,048 each; the masks are taken over as they are.

examples:
  llm360 data import --format amber-jsonl train_000.jsonl --tokenizer tokenizer.json --out data/amber
  llm360 data import --format amber-jsonl 'train_*.jsonl' --chunks 360 --skip-bad --out s3://bucket/amber
  llm360 data import --format amber-jsonl k2/ --row-tokens 2048 --labels inside --chunk-order k2 --out data/k2
  llm360 data import --format crystal-jsonl instruct.jsonl --tokenizer tokenizer.json --out data/instruct
"""

SHOW_EXAMPLES = """\
URI is a run's release, whose ledger tells the batch and the stages, or a folder of prepared data. Steps and samples
count from 0.

examples:
  llm360 data show runs/amber-tiny --step 12 --sample 3
  llm360 data show data/wiki --step 0 --batch-size 32 -o json
"""

VERIFY_EXAMPLES = """\
Every shard is read once: its digest, columns, ids and documents, then the counts of the whole.

examples:
  llm360 data verify runs/amber-tiny/data/stage1
  llm360 data verify s3://bucket/data -o json

exit codes:
  0 the bytes are those of the manifest · 1 they are not (each problem is named) · 2 there is no data
"""

SAMPLES_RULE = "─" * 80


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _configure_prepare(add_command(commands, "prepare", "tokenize, mix and shuffle text into rows", PREPARE_EXAMPLES))
    _configure_import(add_command(commands, "import", "take over rows that others published", IMPORT_EXAMPLES))
    _configure_show(add_command(commands, "show", "print what a step reads", SHOW_EXAMPLES))
    verify = add_command(commands, "verify", "check prepared data against its manifest", VERIFY_EXAMPLES)
    verify.add_argument("uri", metavar="URI", help="folder of prepared data; a path, s3:// or http(s)://")
    add_output(verify)
    verify.set_defaults(run=run_verify)


def _configure_prepare(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--source",
        dest="sources",
        metavar="NAME=PATH[:WEIGHT][:TIMESx]",
        action="append",
        required=True,
        help="a file, folder or glob, local or s3://, its relative share of the rows, and how often each row is there"
        " to be taken (3x, 0.5x; default: 1x); again for more",
    )
    add("--tokenizer", metavar="FILE", required=True, help="tokenizer.json, or a folder that holds it")
    add("--recipe", metavar="NAME", help="the mix and the rules of a published run (see above)")
    add("--sequence-length", metavar="N", type=int, help="inputs of a row; it has N+1 ids (needed without --recipe)")
    add("--chunks", metavar="K", type=int, help="parts of the data between checkpoints (default: the recipe's, or 1)")
    add("--seed", metavar="S", type=int, default=0, help="seed of the shuffle (default: 0)")
    add("--out", metavar="URI", required=True, help="where the data goes: a folder or s3://bucket/prefix")
    add(
        "--shuffle",
        choices=("global", "none", "deal", "chunk"),
        help="over all rows; source after source in the order of the input; row j of a source dealt to chunk j mod K"
        " (Amber); dealt, then shuffled in each chunk (K2) (default: the recipe's, or global)",
    )
    add(
        "--labels",
        choices=("next_token", "inside"),
        help="rows of N+1 ids with N predictions, or of N ids with N-1 (K2) (default: the recipe's, or next_token)",
    )
    add(
        "--packing",
        choices=("disjoint", "overlapping"),
        help="rows share no id, or each begins with the last id of the one before (CrystalCoder) (default: the"
        " recipe's, or disjoint)",
    )
    add(
        "--fim",
        metavar="SOURCE=RATE[/SPM_RATE]",
        action="append",
        default=[],
        help="fill-in-the-middle: turn around so many of a source's documents, of these so many with their suffix first"
        " (default: 0.5); again for more",
    )
    add(
        "--chat",
        metavar="SOURCE",
        action="append",
        default=[],
        help="lines of this source's .jsonl files are conversations, of which only the assistant's words count in the"
        " loss (CrystalChat); again for more",
    )
    add(
        "--txt-document",
        choices=("line", "file"),
        default="line",
        help="what a document of a .txt file is (default: line)",
    )
    add("--eos", metavar="TOKEN|ID", help="what ends a document (default: </s>, <|endoftext|> or a like name)")
    add("--max-rows", metavar="N", type=int, help="take at most so many rows, in the proportions of the mix")
    add(
        "--held-out",
        metavar="SHARE[:SEED]",
        help="documents of this share become no rows, chosen by their text; `llm360 analyze perplexity` measures them",
    )
    add("--address", metavar="HOST:PORT", help="run on this Ray cluster ('auto' finds it) instead of this machine")
    add("--cpus", metavar="N", type=int, help="cores of this machine to use (default: all)")
    add_output(parser)
    parser.set_defaults(run=run_prepare)


def _configure_import(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", help="files, folders or globs of .jsonl[.gz|.zst], in training order")
    add("--format", choices=("amber-jsonl", "crystal-jsonl"), required=True, help="the form of the lines")
    add("--tokenizer", metavar="FILE", help="the tokenizer.json that gave the ids; without it `show` prints ids")
    add("--chunks", metavar="K", type=int, help="parts of the data between checkpoints (default: 1)")
    add("--row-tokens", metavar="N", type=int, help="ids that each row must have (default: 2049)")
    add(
        "--labels",
        choices=("next_token", "inside"),
        default="next_token",
        help="what rows of N ids are: N-1 inputs and as many labels, or N inputs of which the last has none (K2)"
        " (default: next_token)",
    )
    add("--chunk-order", choices=("k2",), help="read files named chunk_0, chunk_1, … in this run's order, each a chunk")
    add("--skip-bad", action="store_true", help="leave out bad lines and count them")
    add("--out", metavar="URI", required=True, help="where the data goes: a folder or s3://bucket/prefix")
    add_output(parser)
    parser.set_defaults(run=run_import)


def _configure_show(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("uri", metavar="URI", help="a run's release, or a folder of prepared data")
    add("--step", metavar="S", type=int, required=True, help="the step, from 0")
    add("--sample", metavar="I", type=int, help="the sample of the step's batch, from 0 (default: all)")
    add("--batch-size", metavar="B", type=int, help="rows of a step, where no release tells it")
    add("--remainder", choices=("drop", "carry"), help="what becomes of a chunk's last rows (default: drop)")
    add_output(parser)
    parser.set_defaults(run=run_show)


def run_prepare(args: argparse.Namespace) -> int:
    """Prepare, and say what came out."""
    from llm360_trainer.prepare.pipeline import prepare
    from llm360_trainer.prepare.progress import ProgressLine
    from llm360_trainer.prepare.runner import ray_session
    from llm360_trainer.prepare.signals import Interruption, exit_code_of

    if args.cpus is not None and args.cpus < 1:
        raise InputError(f"--cpus is {args.cpus}; it must be at least 1")
    session = partial(ray_session, args.address, args.cpus, _say)
    settings = prepare_settings(args)
    line = ProgressLine()
    try:
        with Interruption():
            manifest = prepare(settings, open_storage(args.out), session=session, say=_say, progress=line)
    except KeyboardInterrupt as interrupt:
        line.close()
        _say("llm360: interrupted; the same command goes on where it stopped")
        return exit_code_of(interrupt)
    _print_manifest(manifest, args.output)
    return 0


def prepare_settings(args: argparse.Namespace) -> PrepareSettings:
    """What is asked for: the arguments, over those of the recipe where one is named.

    Raises:
        InputError: there is no such recipe, a source of it is missing, or the length of rows is.
    """
    from llm360_trainer.prepare.held_out import parse_held_out
    from llm360_trainer.prepare.inputs import parse_source
    from llm360_trainer.prepare.mixes import MIXES
    from llm360_trainer.prepare.settings import PrepareSettings

    sources = with_rules([parse_source(source) for source in args.sources], args.fim, args.chat)
    rules: dict[str, Any] = {"chunks": 1, "shuffle": "global", "labels": "next_token", "packing": "disjoint"}
    if args.recipe is not None:
        if args.recipe not in MIXES:
            names = list(MIXES)
            raise InputError(
                f"there is no recipe '{args.recipe}'{nearest(args.recipe, names)}; recipes are {', '.join(names)}"
            )
        mix = MIXES[args.recipe]
        sources = mix.sources(sources)
        rules = {name: getattr(mix, name) for name in (*rules, "sequence_length")}
    rules |= {name: value for name in (*rules, "sequence_length") if (value := getattr(args, name)) is not None}
    if "sequence_length" not in rules:
        raise InputError("--sequence-length is missing; say how many inputs a row has, or name a --recipe")
    return PrepareSettings(
        sources=sources,
        tokenizer=read_tokenizer(args.tokenizer),
        seed=args.seed,
        txt_document=args.txt_document,
        eos=args.eos,
        max_rows=args.max_rows,
        recipe_name=args.recipe,
        held_out=None if args.held_out is None else parse_held_out(args.held_out),
        **rules,
    )


def with_rules(sources: Sequence[SourceSpec], fim: Sequence[str], chat: Sequence[str]) -> tuple[SourceSpec, ...]:
    """The sources, with fill-in-the-middle in those that `--fim` names and conversations in those that `--chat` does.

    Raises:
        InputError: an argument is not of its form, or names no source.
    """
    from llm360_trainer.prepare.fim import parse_fim

    rates = dict(parse_fim(text) for text in fim)
    names = [source.name for source in sources]
    for option, named in (("--fim", list(rates)), ("--chat", chat)):
        for name in named:
            if name not in names:
                raise InputError(
                    f"{option} names the source '{name}'{nearest(name, names)}; sources are {', '.join(names)}"
                )
    return tuple(replace(source, fim=rates.get(source.name), chat=source.name in chat) for source in sources)


def run_import(args: argparse.Namespace) -> int:
    """Import, and say what came out."""
    from llm360_trainer.prepare.progress import ProgressLine
    from llm360_trainer.prepare.published import ImportSettings, import_rows

    settings = ImportSettings(
        paths=tuple(args.paths),
        tokenizer=None if args.tokenizer is None else read_tokenizer(args.tokenizer),
        form=args.format,
        chunks=args.chunks,
        row_tokens=args.row_tokens,
        labels=args.labels,
        chunk_order=args.chunk_order,
        skip_bad=args.skip_bad,
    )
    manifest = import_rows(settings, open_storage(args.out), say=_say, progress=ProgressLine())
    _print_manifest(manifest, args.output)
    return 0


def run_show(args: argparse.Namespace) -> int:
    """Print the samples of a step."""
    from llm360.data.show import show_step
    from llm360_trainer.cli.data_show import find_step

    place = find_step(args.uri, args.step, args.batch_size, args.remainder)
    shown = show_step(place.storage, place.manifest, place.order, place.step, args.sample)
    if args.output == "json":
        print(json.dumps([sample.to_json() | {"step": args.step} for sample in shown], indent=2, ensure_ascii=False))
    else:
        print(f"\n{SAMPLES_RULE}\n".join(sample.to_text() for sample in shown))
    return 0


def run_verify(args: argparse.Namespace) -> int:
    """Check the data; 1 if anything is wrong."""
    from llm360.data.verify import verify_data
    from llm360_trainer.prepare.progress import ProgressLine

    line = ProgressLine()
    found = verify_data(open_storage(args.uri), lambda done, total: line("checking shards", done, total, ""))
    manifest = found.manifest
    shards = sum(len(chunk.shards) for chunk in manifest.chunks)
    if args.output == "json":
        value = {"ok": found.ok, "digest": found.digest, "rows": manifest.rows, "shards": shards, "bytes": found.bytes}
        print(json.dumps(value | {"problems": found.problems}, indent=2))
    elif found.ok:
        print(f"ok: {manifest.rows:,} rows in {shards} shards, {found.bytes:,} bytes; manifest {found.digest}")
    else:
        print("\n".join(f"wrong: {problem}" for problem in found.problems))
    return 0 if found.ok else 1


def read_tokenizer(path: str) -> bytes:
    """The contents of a tokenizer file, or of the `tokenizer.json` in a folder.

    Raises:
        InputError: there is no such file.
    """
    file = Path(path)
    if file.is_dir():
        file /= "tokenizer.json"
    try:
        return file.read_bytes()
    except OSError as error:
        raise InputError(
            f"the tokenizer {file} cannot be read: {error.strerror}; give a tokenizer.json of the library tokenizers,"
            " or make one with `llm360 tokenizer train`",
            reason="TokenizerMissing",
        ) from error


def _print_manifest(manifest: DataManifest, output: str) -> None:
    if output == "json":
        print(json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False))
        return
    least, most = min(manifest.chunk_rows), max(manifest.chunk_rows)
    print(f"rows        {manifest.rows:,} of {manifest.row_tokens:,} ids ({manifest.dtype})")
    print(f"tokens      {manifest.rows * manifest.predictions:,} predictions")
    print(f"chunks      {len(manifest.chunks)} of {least:,}" + (f" to {most:,}" if least < most else "") + " rows")
    for source in manifest.sources:
        print(
            f"source      {source.name}: {source.rows:,} rows of {source.documents:,} documents,"
            f" {source.tokens:,} ids, {source.dropped_tokens:,} of them in no row"
        )
    for source in manifest.sources:
        if source.personal is not None:
            found = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in source.personal.items())
            print(f"personal    {source.name}: patterns of {found}")
    if manifest.duplicates is not None:
        of_sources = ", ".join(f"{source.name} {source.duplicates:,}" for source in manifest.sources)
        print(f"duplicates  {manifest.duplicates:,} documents repeat another exactly; in one source: {of_sources}")
    if manifest.held_out is not None:
        held = sum(file.documents for file in manifest.held_out)
        print(f"held out    {held:,} documents are in no row; a copy of them lies beside the rows")
    if "skipped_lines" in manifest.recipe:
        print(f"skipped     {manifest.recipe['skipped_lines']:,} bad lines")
    print(f"unigram     {manifest.unigram_entropy:.4f} nats: the loss of a model that sees no context")


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
