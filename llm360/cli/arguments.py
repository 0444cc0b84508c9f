"""What the commands' parsers share: how a sub-command is added, and the choice of the output's form."""

from __future__ import annotations

import argparse
from typing import Any


def add_command(commands: Any, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    """Add a sub-command whose summary is its line of help and its description, and whose examples keep their lines.

    Args:
        commands: What `add_subparsers` returned.
        name: The word that is typed.
        summary: Starts in lower case, without a full stop.
        epilog: Examples.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `-o text|json`."""
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the output")
