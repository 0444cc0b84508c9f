"""`kubectl llm360 logs`: what a run's pods say, while they live."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from llm360.cli.kube.kubectl import Object, add_run, kubectl_of
from llm360.errors import LLM360Error
from llm360.spec.crd import RUN_LABEL

EPILOG = """\
The driver is on the head of the Ray cluster; each of its lines names the run. Before there is a head, --of preflight
has the pod that looked at store and data. --of evaluation has the newest pod that evaluates a checkpoint.

examples:
  kubectl llm360 logs amber-7b -f                 what the driver says, as it says it
  kubectl llm360 logs amber-7b --tail 200 -p      the last lines of the head's container before the present one
  kubectl llm360 logs amber-7b --of workers       Ray's words on each worker, every line with its pod

exit codes:
  0 printed · 1 the run has no such pods now, or kubectl logs failed · 2 there is no such run
"""

PARTS = {"driver": "ray-head", "workers": "ray-worker", "preflight": "preflight", "evaluation": "evaluation"}
"""What can be asked for, and its container."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = EPILOG
    add_run(parser)
    parser.add_argument("--of", choices=tuple(PARTS), default="driver", help="whose words (default: driver)")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the pods end")
    parser.add_argument("-p", "--previous", action="store_true", help="of the container before the present one")
    parser.add_argument("--tail", type=int, metavar="LINES", help="only so many of the last lines")
    parser.add_argument("--since", metavar="DURATION", help="only lines newer than this, for example 10m")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Find the pods, then let kubectl print."""
    kubectl = kubectl_of(args)
    found = kubectl.get_run(args.name)
    container = PARTS[args.of]
    pods = pods_of(kubectl.pods(args.name), container)
    if not pods:
        raise LLM360Error(_absent(found, args.of), reason="NoPods")
    print(f"run {args.name}: {args.of}: {', '.join(pods)}", file=sys.stderr)
    options = [f"--container={container}", *_options(args)]
    if len(pods) == 1:
        return 1 if kubectl.logs(pods[0], *options) else 0
    selector = f"--selector={RUN_LABEL}={args.name},ray.io/node-type=worker"
    # kubectl follows five pods at most unless it is told otherwise.
    many = ["--prefix", f"--max-log-requests={len(pods)}", f"--tail={-1 if args.tail is None else args.tail}"]
    return 1 if kubectl.logs(selector, *options, *many) else 0


def pods_of(pods: Sequence[Object], container: str) -> list[str]:
    """The pods that have a container, the newest first."""
    found = [pod for pod in pods if any(c["name"] == container for c in pod["spec"]["containers"])]
    newest_first = sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)
    names = [str(pod["metadata"]["name"]) for pod in newest_first]
    return names if container == PARTS["workers"] else names[:1]


def _options(args: argparse.Namespace) -> list[str]:
    chosen = {"follow": args.follow, "previous": args.previous}
    valued = {"tail": args.tail, "since": args.since}
    options = [f"--{name}" for name, value in chosen.items() if value]
    return options + [f"--{name}={value}" for name, value in valued.items() if value is not None]


def _absent(found: Object, of: str) -> str:
    name, phase = found["metadata"]["name"], (found.get("status") or {}).get("phase", "Pending")
    return (
        f"run '{name}' has no {of} pod now (phase {phase}), and logs go with their pods; its steps and attempts stay in"
        f" the release: kubectl llm360 status {name} says where that is, kubectl llm360 report {name} --out run.html"
        " shows it"
    )
