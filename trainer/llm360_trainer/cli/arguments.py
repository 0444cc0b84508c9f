"""What the commands that train share: where Ray runs, and how progress is shown."""

from __future__ import annotations

import argparse
import math

from llm360_trainer.driver.progress import LOG_INTERVAL_SECONDS


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add `--address`."""
    parser.add_argument(
        "--address", help="address of a Ray cluster, 'auto' for this machine's; default: start Ray here"
    )


def add_log(parser: argparse.ArgumentParser) -> None:
    """Add `--log-format` and `--log-interval`."""
    add = parser.add_argument
    add(
        "--log-format",
        choices=("auto", "text", "json"),
        default="auto",
        help="auto: a bar on a terminal, lines of text otherwise (default: %(default)s)",
    )
    add(
        "--log-interval",
        type=seconds,
        default=LOG_INTERVAL_SECONDS,
        metavar="SECONDS",
        help="least time between the lines of two steps in a log; 0: every step (default: %(default)s)",
    )


def seconds(text: str) -> float:
    """A time from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write seconds from 0 on, for example 2.5")
    return value
