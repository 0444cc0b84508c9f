"""`kubectl llm360 status`: where a run stands, what is wrong and what to do."""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime

from llm360.cli.arguments import add_output, add_watch, check_interval, show_again
from llm360.cli.kube.kubectl import ClusterUnreachableError, Object, add_run, kubectl_of
from llm360.cli.kube.view import problem, status_json, status_text

EPILOG = """\
The last lines say what is wrong, by the operator's conditions; docs/runbooks/conditions.md has more about each reason.

examples:
  kubectl llm360 status amber-7b                   where it stands
  kubectl llm360 status amber-7b -n research -w    again whenever it changes, until it is over
  kubectl llm360 status amber-7b -o json           for programs: the object's status, and "problem"

exit codes:
  0 shown (with -w: the run succeeded) · 1 no answer (with -w: the run failed) · 2 there is no such run
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_run(parser)
    add_output(parser)
    add_watch(parser, "succeeded or failed")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the status, once or until the run is over."""
    check_interval(args)
    kubectl, shown = kubectl_of(args), ""
    while True:
        try:
            found = kubectl.get_run(args.name)
        except ClusterUnreachableError as error:
            if not shown:
                raise
            # Whoever watches for days has seen the API server come back before.
            print(f"kubectl llm360: {error.message}; trying again", file=sys.stderr)
            time.sleep(args.interval)
            continue
        text = _format(found, args)
        if not args.watch:
            print(text)
            return 0
        # On a terminal the times go on; in a log only a change of the object is worth another line.
        current = text if sys.stdout.isatty() else _essence(found)
        if current != shown:
            show_again(text, args.output)
            shown = current
        phase = (found.get("status") or {}).get("phase")
        if phase in ("Succeeded", "Failed"):
            return 0 if phase == "Succeeded" else 1
        time.sleep(args.interval)


def _format(found: Object, args: argparse.Namespace) -> str:
    now = datetime.now(UTC)
    if args.output == "json":
        return json.dumps(status_json(found, now), indent=None if args.watch else 2)
    return status_text(found, now)


def _essence(found: Object) -> str:
    """What a change is told by: the status itself, and whether something is wrong."""
    wrong = problem(found, datetime.now(UTC))
    return json.dumps([found.get("status"), wrong.reason if wrong else None])
