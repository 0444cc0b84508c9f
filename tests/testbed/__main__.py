"""`python -m testbed`: a real Kubernetes on this machine (run it in tests/, or as `make cluster`)."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from testbed import addons, build, cluster, faults, images, kwok, layout, needs
from testbed.control_plane import is_api_ready, kubeconfig
from testbed.errors import TestbedError
from testbed.layout import LOGS, NODES, REGISTRY
from testbed.process import members

EXAMPLES = """\
examples:
  python -m testbed up                        start it; the first time builds for about a quarter of an hour
  python -m testbed status -o json            what runs, and where
  eval "$(python -m testbed kubeconfig)"      KUBECONFIG and PATH for kubectl and helm
  python -m testbed load operator             build images/operator/Dockerfile and push it
  python -m testbed fault node node0 --for 30 node0 without power for 30 seconds, then back
  python -m testbed logs kube-apiserver       the end of a daemon's log; without a name, their names
  python -m testbed down
"""
FAULTS: dict[str, tuple[str, Callable[[argparse.Namespace], AbstractContextManager[None]]]] = {
    "pod": ("kill pod NAME", lambda args: faults.pod(_named(args), args.namespace)),
    "head": ("kill the head of RayCluster NAME", lambda args: faults.head(_named(args), args.namespace)),
    "kuberay": ("kill KubeRay's operator", lambda _: faults.kuberay()),
    "operator": ("kill the llm360 operator", lambda _: faults.operator()),
    "node": ("node NAME without power", lambda args: faults.node_lost(_node(args))),
    "cut-node": ("node NAME's cable pulled", lambda args: faults.node_cut(_node(args))),
    "slow-link": ("node NAME's cable slow (--rate)", lambda args: faults.slow_link(_node(args), args.rate)),
    "api-server": ("the API server down", lambda _: faults.api_server_down()),
    "cut-s3": ("nothing reaches S3", lambda _: faults.s3_cut()),
    "full-disk": ("disk NAME (node0, node1, s3) full", lambda args: faults.full_disk(_disk(args))),
}


def say(line: str) -> None:
    """Progress goes to standard error; standard output is for what was asked for."""
    print(f"testbed: {line}", file=sys.stderr, flush=True)


def _named(args: argparse.Namespace) -> str:
    if not args.name:
        raise TestbedError(f"the fault {args.fault!r} needs a NAME: {FAULTS[args.fault][0]}")
    return str(args.name)


def _node(args: argparse.Namespace) -> layout.Node:
    name = _named(args)
    try:
        return layout.node(name)
    except KeyError:
        raise TestbedError(f"there is no node {name!r}; there are {', '.join(each.name for each in NODES)}") from None


def _disk(args: argparse.Namespace) -> str:
    name, known = _named(args), [*(each.name for each in NODES), "s3"]
    if name not in known:
        raise TestbedError(f"there is no disk {name!r}; there are {', '.join(known)}")
    return name


def _require_up() -> None:
    found = cluster.owner()
    if not (found and found.ready):
        raise TestbedError("no testbed is up; `python -m testbed up` (or make cluster) starts it")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def up(args: argparse.Namespace) -> None:
    """Start it."""
    cluster.up(say, force=args.force)


def build_programs(args: argparse.Namespace) -> None:
    """Install and build what `up` needs, and start nothing."""
    needs.install(say)
    build.build_all(say)


def down(args: argparse.Namespace) -> None:
    """End it."""
    cluster.down(say, force=args.force)


def clean(args: argparse.Namespace) -> None:
    """Remove the cache: programs, images, what the nodes pulled."""
    cluster.clean(say, only_images=args.images)


def status(args: argparse.Namespace) -> None:
    """Print what runs."""
    found = cluster.owner()
    parts = addons.are_ready() if found and found.ready and is_api_ready() else {}
    facts = {
        "owner": str(found) if found else None,
        "ready": bool(parts) and all(parts.values()) and cluster.are_nodes_ready(),
        "processes": len(members(layout.GROUP)),
        "parts": parts,
        "kubeconfig": str(layout.KUBECONFIG) if found else None,
        "registry": REGISTRY if found else None,
        "s3": f"http://{addons.pod_address('s3')}:8333" if parts.get("s3") else None,
        "prometheus": f"http://{addons.pod_address('prometheus')}:9090" if parts.get("prometheus") else None,
        "versions": {each.name: each.version for each in build.COMPONENTS},
    }
    if args.output == "json":
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        text = ", ".join(f"{key} {each}" for key, each in value.items()) if isinstance(value, dict) else value
        print(f"{name:12}{text if text not in (None, '') else '-'}")


def logs(args: argparse.Namespace) -> None:
    """Print the end of a daemon's log, or the daemons' names."""
    if not args.name:
        print("\n".join(sorted(path.stem for path in LOGS.glob("*.log"))) or "no logs: nothing is up")
        return
    path = LOGS / f"{args.name}.log"
    if not path.exists():
        raise TestbedError(
            f"there is no log {args.name!r}; `python -m testbed logs` lists them (a pod's: kubectl logs)"
        )
    subprocess.run(["tail", f"--lines={args.lines}", *(["--follow"] if args.follow else []), path], check=False)


def print_kubeconfig(args: argparse.Namespace) -> None:
    """Print what a shell evaluates to use kubectl and helm."""
    _require_up()
    programs = [str(build.kubectl().parent), str(build.program("helm", "helm").parent)]
    print(f"export KUBECONFIG={kubeconfig('admin')}")
    print(f'export PATH="{os.pathsep.join(programs)}:$PATH"')


def load(args: argparse.Namespace) -> None:
    """Build and push an image of the project."""
    images.dockerfile(args.image, args.file)
    _require_up()
    print(images.load(args.image, say, file=args.file, context=args.context, arguments=dict(args.build_arg)))


def fault(args: argparse.Namespace) -> None:
    """Make a fault, wait, undo it."""
    chosen = FAULTS[args.fault][1](args)
    _require_up()
    with chosen:
        say(f"{args.fault} {args.name or ''}: now, for {args.seconds} s (ctrl-C ends it sooner)")
        threading.Event().wait(args.seconds)
    say("undone")


def add_kwok(args: argparse.Namespace) -> None:
    """Add or remove nodes that only exist in the API."""
    _require_up()
    kwok.scale(args.count)
    say(f"{args.count} nodes with label {kwok.LABEL}; their pods run in name only")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m testbed",
        description="A real Kubernetes with KubeRay, Kueue, S3 and Prometheus on this machine. README.md tells more.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for name, action in (("up", up), ("down", down)):
        command = commands.add_parser(name, help=action.__doc__)
        command.add_argument("--force", action="store_true", help="even if it is another checkout's: end that first")
        command.set_defaults(run=action)
    commands.add_parser("build", help=build_programs.__doc__).set_defaults(run=build_programs)
    command = commands.add_parser("clean", help=clean.__doc__)
    command.add_argument("--images", action="store_true", help="images alone: the programs, which take longest, stay")
    command.set_defaults(run=clean)
    command = commands.add_parser("status", help=status.__doc__)
    command.add_argument("-o", "--output", choices=("text", "json"), default="text")
    command.set_defaults(run=status)
    command = commands.add_parser("logs", help=logs.__doc__)
    command.add_argument("name", nargs="?")
    command.add_argument("-n", "--lines", type=int, default=50)
    command.add_argument("-f", "--follow", action="store_true")
    command.set_defaults(run=logs)
    commands.add_parser("kubeconfig", help=print_kubeconfig.__doc__).set_defaults(run=print_kubeconfig)
    command = commands.add_parser("load", help=load.__doc__)
    command.add_argument("image", metavar="IMAGE", help="folder of images/ that holds its Dockerfile")
    command.add_argument("--file", type=Path, metavar="DOCKERFILE", help="another Dockerfile")
    command.add_argument("--context", type=Path, default=layout.CHECKOUT, help="folder to copy from (default: project)")
    command.add_argument("--build-arg", action="append", default=[], type=_assignment, metavar="NAME=VALUE")
    command.set_defaults(run=load)
    command = commands.add_parser("kwok", help=add_kwok.__doc__)
    command.add_argument("count", type=int, metavar="COUNT", help="how many there shall be; 0 removes them")
    command.set_defaults(run=add_kwok)
    listing = "\n".join(f"  {name:12}{what}" for name, (what, _) in FAULTS.items())
    command = commands.add_parser(
        "fault", help=fault.__doc__, epilog=f"faults:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.add_argument("fault", choices=FAULTS, metavar="FAULT")
    command.add_argument("name", nargs="?")
    command.add_argument("--namespace", default="default")
    command.add_argument("--rate", default="10mbit", help="of slow-link, as tc writes it (default: 10mbit)")
    command.add_argument("--for", dest="seconds", type=float, default=30.0, metavar="SECONDS")
    command.set_defaults(run=fault)
    return top


def main() -> int:
    """Run one command; 0 done, 1 failed, 130 interrupted."""
    args = parser().parse_args()
    try:
        args.run(args)
    except TestbedError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
