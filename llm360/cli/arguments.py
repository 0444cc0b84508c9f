"""What the commands share: how a sub-command is added, addresses, overrides, the output's form, and watching."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from llm360.errors import InputError
from llm360.storage.open import NEARLY_ADDRESS, without_credentials


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


def add_release(parser: argparse.ArgumentParser, *, writes: bool = False) -> None:
    """Add the address of a release; one that is written to cannot lie behind a web server."""
    places = "a folder or s3://bucket/prefix" if writes else "a folder, s3://bucket/prefix or http(s)://host/path"
    parser.add_argument("uri", metavar="URI", help=places)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add `--set`, as `overrides`."""
    parser.add_argument(
        "--set",
        metavar="PATH=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a field below spec, as training.seed=7; may be repeated",
    )


def local_path(text: str) -> Path:
    """A file or folder of this machine, as the type of an argument: `Path("s3://b/x")` would be a folder `s3:`.

    Raises:
        argparse.ArgumentTypeError: it is empty, or the address of a store.
    """
    if not text:
        raise argparse.ArgumentTypeError("it is empty; give a path on this machine")
    if NEARLY_ADDRESS.match(text):
        raise argparse.ArgumentTypeError(f"'{without_credentials(text)}' is an address; give a path on this machine")
    return Path(text)


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add `-o text|json`."""
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the output")


def add_watch(parser: argparse.ArgumentParser, end: str) -> None:
    """Add `-w` and `--interval`; `end` says when watching ends."""
    parser.add_argument("-w", "--watch", action="store_true", help=f"show it again at every change, until {end}")
    parser.add_argument(
        "--interval", type=float, default=5.0, metavar="SECONDS", help="how often --watch looks (default: 5)"
    )


def check_interval(args: argparse.Namespace) -> None:
    """Refuse an interval that floods, or never ends."""
    if not 0.1 <= args.interval <= 3600:
        raise InputError(f"--interval is {args.interval:g} seconds; allowed are 0.1 to 3600")


def show_again(text: str, output: str) -> None:
    """Print once more: in place on a terminal, below in a log; JSON is one object per line everywhere."""
    if output == "text":
        text = f"\x1b[H\x1b[2J{text}" if sys.stdout.isatty() else f"{text}\n"
    print(text, flush=True)
