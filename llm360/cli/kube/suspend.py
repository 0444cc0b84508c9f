"""`kubectl llm360 suspend`: have a run write a checkpoint, stop and free its pods."""

from __future__ import annotations

import argparse

from llm360.cli.kube.kubectl import add_run, kubectl_of

EPILOG = """\
The driver writes a checkpoint and stops, then the pods go; `kubectl llm360 resume` goes on from there.

examples:
  kubectl llm360 suspend amber-7b
  kubectl llm360 suspend amber-7b && kubectl wait --for=condition=Suspended llm360run/amber-7b --timeout=5m

exit codes:
  0 asked, or held already · 1 refused, or no answer · 2 there is no such run
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_run(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Set `spec.suspend`."""
    kubectl = kubectl_of(args)
    found = kubectl.get_run(args.name)
    phase = (found.get("status") or {}).get("phase", "Pending")
    if phase == "Succeeded":
        print(f"run {args.name} is complete: there is nothing to suspend")
    elif found["spec"].get("suspend"):
        print(f"run {args.name} is to hold already (phase {phase})")
    else:
        kubectl.set_suspend(args.name, True)
        print(f"run {args.name} is asked to hold: its driver writes a checkpoint and stops, then its pods go")
    return 0
