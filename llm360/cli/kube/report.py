"""`kubectl llm360 report`: the report of a run's release, wherever its object says that it is."""

from __future__ import annotations

import argparse

from llm360.cli import report
from llm360.cli.kube.release import add_release, with_release

EPILOG = """\
The same as `llm360 report URI`, with the address from the run's object. Credentials come from the environment (AWS_*).

examples:
  kubectl llm360 report amber-7b                    into the release, as report/index.html
  kubectl llm360 report amber-7b --out run.html     into a file; needs no right to write to the store

exit codes:
  0 written · 1 written, but the release has a broken link, or not written · 2 there is no such run or release
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser)
    report.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    return with_release(args, report.report_of)
