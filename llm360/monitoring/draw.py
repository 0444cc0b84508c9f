"""Draws dashboards from what a Prometheus holds: `python -m llm360.monitoring.draw ADDRESS DASHBOARD.json …`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from llm360.errors import InputError, LLM360Error, StorageError
from llm360.monitoring.bitmap import png_of
from llm360.monitoring.pictures import Window, lay_out, svg_of
from llm360.monitoring.prometheus import Prometheus

EPILOG = """\
examples:
  python -m llm360.monitoring.draw http://127.0.0.1:9090 helm/llm360/dashboards/*.json --var run=amber-tiny
  python -m llm360.monitoring.draw http://127.0.0.1:9090 helm/llm360/dashboards/llm360-run.json --var run=amber-7b \\
    --from 2026-01-02T03:00:00Z --to 2026-01-02T09:00:00Z --format png --out pictures
"""


def main(arguments: list[str]) -> int:
    """Write a picture for each dashboard; gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m llm360.monitoring.draw",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("address", help="of Prometheus: http://HOST:9090")
    parser.add_argument("dashboards", nargs="+", type=Path, metavar="DASHBOARD.json", help="as Grafana imports them")
    parser.add_argument("--var", action="append", default=[], metavar="NAME=VALUE", help="a variable's value (.*)")
    parser.add_argument("--from", dest="start", metavar="TIME", help="ISO 8601 (default: an hour before the end)")
    parser.add_argument("--to", dest="end", metavar="TIME", help="ISO 8601 (default: now)")
    parser.add_argument("--scrape-seconds", type=float, default=15.0, help="how often Prometheus scrapes (15)")
    parser.add_argument("--format", choices=("svg", "png"), default="svg", help="of the pictures (svg)")
    parser.add_argument("--out", type=Path, default=Path(), metavar="DIR", help="folder of the pictures (.)")
    args = parser.parse_args(arguments)
    try:
        window = window_of(args)
        prometheus = Prometheus(args.address)
        boards = {path: read_board(path) for path in args.dashboards}
        canvases = {
            args.out / f"{path.stem}.{args.format}": lay_out(
                board, window, lambda expr, step: prometheus.range(expr, window.start, window.end, step)
            )
            for path, board in boards.items()
        }
    except LLM360Error as error:
        print(error.message, file=sys.stderr)
        return error.exit_code
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        for path, canvas in canvases.items():
            path.write_bytes(png_of(canvas) if args.format == "png" else svg_of(canvas).encode())
            print(path)
    except OSError as error:
        print(f"the pictures cannot be written to {args.out}: {error.strerror}; give another --out", file=sys.stderr)
        return StorageError.exit_code
    return 0


def window_of(args: argparse.Namespace) -> Window:
    """What is to be shown.

    Raises:
        InputError: a time or a variable that cannot be read, or an end before the start.
    """
    end = seconds_of(args.end) if args.end else time.time()
    start = seconds_of(args.start) if args.start else end - 3600
    if end <= start:
        raise InputError(f"--to {args.end} is not after --from {args.start}")
    variables = {"namespace": ".*", "run": ".*"}
    for each in args.var:
        name, equals, value = each.partition("=")
        if not equals:
            raise InputError(f"--var {each} has no value; write NAME=VALUE, as in run=amber-tiny")
        variables[name] = value
    return Window(start, end, variables, args.scrape_seconds)


def seconds_of(text: str) -> float:
    """Seconds since the Epoch; a time without a zone is taken as UTC.

    Raises:
        InputError: it is not a time.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(f"{text!r} is not a time; write it as 2026-01-02T03:00:00Z") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def read_board(path: Path) -> dict[str, Any]:
    """A dashboard's JSON.

    Raises:
        InputError: it cannot be read, or is none.
    """
    try:
        board = json.loads(path.read_text(encoding="utf-8"))
        assert board["panels"]
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise InputError(f"{path} is not the JSON of a Grafana dashboard with panels: {error!r}") from error
    return dict(board)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
