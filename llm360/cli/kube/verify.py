"""`kubectl llm360 verify`: the verification of a run's release, wherever its object says that it is."""

from __future__ import annotations

import argparse

from llm360.cli import verify
from llm360.cli.kube.release import add_release, with_release

EPILOG = """\
The same as `llm360 verify URI`, with the address from the run's object. Credentials come from the environment (AWS_*).
`--head` takes any entry's name, for example status.ledgerHead as it was noted earlier.

examples:
  kubectl llm360 verify amber-7b --bytes latest
  kubectl llm360 verify amber-7b --endpoint http://127.0.0.1:9000    through kubectl port-forward

exit codes:
  0 everything holds · 1 a link is broken (named in the output), or the store gave no answer · 2 no such run or release
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_release(parser)
    verify.add_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Verify."""
    return with_release(args, verify.verify_release)
