"""`llm360 tokenizer`: train a tokenizer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llm360.canonical import sha256_digest
from llm360.cli.arguments import add_command, local_path
from llm360.errors import InputError
from llm360.storage import local

EXAMPLES = """\
A byte-level BPE, so that any text is encoded and decodes to itself. <|endoftext|> is id 0 and ends documents. The
same text gives the same bytes.

examples:
  llm360 tokenizer train --source text='data/*.txt' --vocab-size 32000 --out tokenizer.json
  llm360 tokenizer train --source wiki=wiki/ --source code='code/**/*.parquet' --vocab-size 4096 --out tokenizer.json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the sub-command."""
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    train = add_command(commands, "train", "make a tokenizer.json from text", EXAMPLES)
    add = train.add_argument
    add(
        "--source",
        dest="sources",
        metavar="NAME=PATH",
        action="append",
        required=True,
        help="a file, folder or glob, as `llm360 data prepare` takes it; again for more",
    )
    add("--vocab-size", metavar="V", type=int, required=True, help="number of tokens")
    add("--txt-document", choices=("line", "file"), default="line", help="what a document of a .txt file is")
    add(
        "--out",
        metavar="FILE",
        type=local_path,
        required=True,
        help="where the tokenizer goes; must not exist with other contents",
    )
    add("-o", "--output", choices=("text", "json"), default="text", help="form of the output")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Train, and write the file once."""
    # Imported here: Arrow and the tokenizers library would slow down --help.
    from llm360_trainer.exchange.outputs import check_new_file
    from llm360_trainer.prepare.conversations import text_of
    from llm360_trainer.prepare.documents import read_piece
    from llm360_trainer.prepare.inputs import find_files, parse_source, plan_splits
    from llm360_trainer.prepare.tokenize import train_tokenizer

    check_new_file(args.out)
    sources = [parse_source(source) for source in args.sources]
    splits = plan_splits([find_files(source.path) for source in sources], args.txt_document)
    documents = (found for split in splits for piece in split.pieces for found in read_piece(piece, args.txt_document))
    data = train_tokenizer(map(text_of, documents), args.vocab_size)
    write_new(args.out, data)
    if args.output == "json":
        facts = {"path": str(args.out), "vocab_size": args.vocab_size, "digest": sha256_digest(data)}
        print(json.dumps(facts, indent=2))
    else:
        print(f"{args.out}: {args.vocab_size:,} tokens, {sha256_digest(data)}")
    return 0


def write_new(path: Path, data: bytes) -> None:
    """Write a file whole, unless it exists with these contents.

    Raises:
        InputError: it exists with others.
        StorageError: it cannot be written.
    """
    try:
        if not path.is_file():
            local.write_file(path, data)
        elif path.read_bytes() != data:
            raise InputError(f"{path} exists and holds something else; remove it, or give another --out")
    except OSError as error:
        raise local.explain(error, path, "read") from error
