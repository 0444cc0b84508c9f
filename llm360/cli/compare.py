"""`llm360 compare`: runs side by side."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime

from llm360.cli.arguments import add_output, local_path
from llm360.errors import InputError
from llm360.report.compare import compared_figures, compared_page, compared_rows, read_runs, to_json
from llm360.report.images import write_images
from llm360.report.published import check_published
from llm360.storage import open_storage
from llm360.storage.local import write_file

EPILOG = """\
Prints where the runs stand and the last score of each task; with --out writes a page with their loss, scores and
analyses over tokens, with --figures the same figures as SVG and PNG. Nothing is written into the releases.

examples:
  llm360 compare runs/amber-tiny runs/other
  llm360 compare runs/mine https://host/run --out compare.html --compare amber-7b
  llm360 compare s3://bucket/one s3://bucket/two --figures figures

exit codes:
  0 done · 1 a release cannot be read whole · 2 there is no release, or only one was given
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add = parser.add_argument
    add("uris", metavar="URI", nargs="+", help="two or more: folders, s3://bucket/prefix or http(s)://host/path")
    add("--compare", metavar="MODEL,…", default="", help="draw published scores of these presets behind (amber-7b, …)")
    add("--out", metavar="FILE", type=local_path, help="write a page here")
    add("--figures", metavar="DIR", type=local_path, help="write every figure there, as SVG and PNG")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Read the runs, write what is asked for, print the table."""
    if args.out is not None and args.out.is_dir():
        raise InputError(f"--out {args.out} is a folder; give the name of the file to write")
    if args.figures is not None and args.figures.exists() and not args.figures.is_dir():
        raise InputError(f"--figures {args.figures} is a file; give a folder")
    published = check_published(args.compare)
    runs = read_runs([open_storage(uri) for uri in args.uris], datetime.now(UTC))
    if args.out is not None:
        write_file(args.out, compared_page(runs, published).encode())
    if args.figures is not None:
        write_images(compared_figures(runs, published), args.figures)
    if args.output == "json":
        print(json.dumps({"runs": to_json(runs)}, indent=2))
        return 0
    rows = [("", tuple(found.name for found in runs)), *compared_rows(runs)]
    widths = [
        max(len(label) for label, _ in rows),
        *(max(map(len, column)) for column in zip(*(v for _, v in rows), strict=True)),
    ]
    for label, values in rows:
        print("  ".join(word.ljust(width) for word, width in zip((label, *values), widths, strict=True)).rstrip())
    return 0
