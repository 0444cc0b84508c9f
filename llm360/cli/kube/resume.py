"""`kubectl llm360 resume`: let a suspended run go on."""

from __future__ import annotations

import argparse

from llm360.cli.kube.kubectl import Object, add_run, kubectl_of

EPILOG = """\
examples:
  kubectl llm360 resume amber-7b

exit codes:
  0 asked, or under way already · 1 refused, or no answer · 2 there is no such run
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_run(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Unset `spec.suspend`."""
    kubectl = kubectl_of(args)
    found = kubectl.get_run(args.name)
    if found["spec"].get("suspend"):
        kubectl.set_suspend(args.name, False)
        print(f"run {args.name} goes on from its last checkpoint as soon as it has pods")
    else:
        print(_nothing_to_resume(args.name, found))
    return 0


def _nothing_to_resume(name: str, found: Object) -> str:
    phase = (found.get("status") or {}).get("phase", "Pending")
    if phase == "Failed":
        return (
            f"run {name} has failed and is not suspended; see why with kubectl llm360 status {name}, put it right, then"
            f" try again by: kubectl llm360 suspend {name} && kubectl llm360 resume {name}"
        )
    if phase == "Suspended":
        return f"run {name} was not suspended by its user; kubectl llm360 status {name} says who holds it"
    return f"run {name} is not suspended (phase {phase})"
