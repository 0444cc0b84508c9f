"""`llm360 tokenizer`: train a tokenizer."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from llm360.canonical import sha256_digest
from llm360.cli.arguments import add_command
from llm360.errors import InputError

EXAMPLES = """\
A byte-level BPE, so that any text is encoded and decodes to itself. <|endoftext|> is id 0 and ends documents. The
same text gives the same bytes.

examples:
  llm360 tokenizer train --source text=data/*.txt --vocab-size 32000 --out tokenizer.json
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
    add("--out", metavar="FILE", required=True, help="where the tokenizer goes; must not exist with other contents")
    add("-o", "--output", choices=("text", "json"), default="text", help="form of the output")
    train.set_defaults(run=run_train)


def run_train(args: argparse.Namespace) -> int:
    """Train, and write the file once."""
    # Imported here: Arrow and the tokenizers library would slow down --help.
    from llm360_trainer.prepare.conversations import text_of
    from llm360_trainer.prepare.documents import read_piece
    from llm360_trainer.prepare.inputs import find_files, parse_source, plan_splits
    from llm360_trainer.prepare.tokenize import train_tokenizer

    sources = [parse_source(source) for source in args.sources]
    splits = plan_splits([find_files(source.path) for source in sources], args.txt_document)
    documents = (found for split in splits for piece in split.pieces for found in read_piece(piece, args.txt_document))
    data = train_tokenizer(map(text_of, documents), args.vocab_size)
    write_new(Path(args.out), data)
    if args.output == "json":
        print(json.dumps({"path": args.out, "vocab_size": args.vocab_size, "digest": sha256_digest(data)}, indent=2))
    else:
        print(f"{args.out}: {args.vocab_size:,} tokens, {sha256_digest(data)}")
    return 0


def write_new(path: Path, data: bytes) -> None:
    """Write a file whole, unless it exists with other contents.

    Raises:
        InputError: it does, or it cannot be written.
    """
    try:
        if path.exists() and path.read_bytes() != data:
            raise InputError(f"{path} exists and holds something else; remove it, or give another --out")
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.unfinished")
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from error
