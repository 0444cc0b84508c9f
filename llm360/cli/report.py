"""`llm360 report`: a run's report as one HTML page."""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime

from llm360.cli.arguments import add_output, add_release, local_path
from llm360.errors import InputError
from llm360.report.facts import read_facts
from llm360.report.published import check_published
from llm360.report.summary import run_summary
from llm360.report.write import write_figures, write_report
from llm360.storage import Storage, open_storage

EPILOG = """\
The page holds everything it shows: it loads nothing, runs no script, and can be sent to anyone as one file.
It is a view, bound by no ledger entry; writing it again replaces it. Without --out it is put into the release,
as report/index.html.

examples:
  llm360 report runs/amber-tiny                            writes runs/amber-tiny/report/index.html
  llm360 report https://host/run --out run.html            of a release that one can only read
  llm360 report s3://bucket/run --bytes all                every checkpoint's every byte verified first
  llm360 report runs/mine --compare amber-7b,pythia-1.4b   published scores behind the run's own
  llm360 report runs/mine --figures figures                every figure as SVG and PNG, too

exit codes:
  0 written · 1 written, but the release has a broken link, or not written · 2 there is no release
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser)
    add_options(parser)
    parser.set_defaults(run=run)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what is asked of any release, however it is named."""
    parser.add_argument(
        "--out", metavar="FILE", type=local_path, help="write the page here (default: into the release)"
    )
    parser.add_argument(
        "--bytes",
        choices=("all", "latest", "none"),
        default="latest",
        help="whose checkpoint files to verify for the page: of all, of the latest (default), of none",
    )
    parser.add_argument("--no-verify", action="store_true", help="write the page without verifying; it will say so")
    parser.add_argument(
        "--compare",
        metavar="MODEL,…",
        default="",
        help="draw published scores of these presets behind the run's (amber-7b, k2-65b, pythia-1.4b, …)",
    )
    parser.add_argument(
        "--figures", metavar="DIR", type=local_path, help="also write every figure there, as SVG and PNG"
    )
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page, then print where the run stands and where the page lies."""
    return report_of(open_storage(args.uri), args)


def report_of(storage: Storage, args: argparse.Namespace) -> int:
    """The same of a release that is open already."""
    if args.figures is not None and args.figures.exists() and not args.figures.is_dir():
        raise InputError(f"--figures {args.figures} is a file; give a folder")
    if args.out is not None and args.out.is_dir():
        raise InputError(f"--out {args.out} is a folder; give the name of the file to write")
    if args.out is None and storage.uri.startswith(("http://", "https://")):
        raise InputError(f"{storage.uri} can only be read; say with --out FILE where the report goes")
    compare = check_published(args.compare)
    written = write_report(storage, extent=None if args.no_verify else args.bytes, out=args.out, compare=compare)
    images = [] if args.figures is None else write_figures(storage, args.figures, compare)
    view, now = written.verification, datetime.now(UTC)
    if args.output == "json":
        facts = read_facts(storage, written.history, now).to_json()
        facts |= {"report": written.place, "verified": view.ok if view else None, "figures": [*map(str, images)]}
        print(json.dumps(facts, indent=2))
    else:
        verdict = view.sentence if view else None
        print(run_summary(storage, written.history, now, report=written.place, verdict=verdict))
        if images:
            print(f"figures      {len(images)} files in {args.figures}")
    return 0 if view is None or view.ok else 1
