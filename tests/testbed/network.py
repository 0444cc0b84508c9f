"""The bridge, the nodes' network namespaces and their cables; see the drawing in layout.py."""

from __future__ import annotations

from pathlib import Path

from testbed.layout import BRIDGE, HOST_IP, NAMESPACES, NODES, SERVICES, STATE, Node
from testbed.process import mounts_below, run, wait_until

FIRST = STATE / "first-namespaces"
"""There where the first namespace of the machine was ours."""


def make() -> None:
    """Make the bridge, and each node's namespace with its cable and routes."""
    if not NAMESPACES.exists():
        FIRST.touch()
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "address", "add", f"{HOST_IP}/24", "dev", BRIDGE])
    run(["ip", "link", "set", BRIDGE, "up"])
    for node in NODES:
        _make_node(node)
    for node in NODES:
        # The API server calls webhooks in pods, and tests look at them, from the machine itself.
        run(["ip", "route", "add", node.pods, "via", node.ip])
        for other in NODES:
            if other != node:
                inside(node, ["ip", "route", "add", other.pods, "via", other.ip])


def _make_node(node: Node) -> None:
    run(["ip", "netns", "add", node.namespace])
    run(["ip", "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace])
    run(["ip", "link", "set", node.link, "master", BRIDGE, "up"])
    inside(node, ["ip", "link", "set", "lo", "up"])
    inside(node, ["ip", "address", "add", f"{node.ip}/24", "dev", "eth0"])
    inside(node, ["ip", "link", "set", "eth0", "up"])
    # Services are reached by kube-proxy's rules, which see only what has a route; no other route leads anywhere.
    inside(node, ["ip", "route", "add", SERVICES, "via", HOST_IP])
    inside(node, ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.bridge.bridge-nf-call-iptables=1"])


def inside(node: Node, command: list[str]) -> str:
    """Run a command in the node's network namespace."""
    return run(["nsenter", f"--net={NAMESPACES / node.namespace}", *command])


def is_made(node: Node) -> bool:
    """Whether the node's namespace is there."""
    return (NAMESPACES / node.namespace).exists()


def remove() -> None:
    """Remove namespaces, cables and bridge; the routes and rules go with them."""
    for node in NODES:
        if is_made(node):
            run(["ip", "netns", "delete", node.namespace])
    if FIRST.exists() and NAMESPACES.exists() and not any(NAMESPACES.iterdir()):
        forget_namespaces()
    # A namespace takes its end of a cable with it, and that the other end, a moment after it went.
    wait_until(lambda: not any(Path("/sys/class/net", node.link).exists() for node in NODES), "the cables' end", 20)
    if Path("/sys/class/net", BRIDGE).exists():
        run(["ip", "link", "delete", BRIDGE])


def forget_namespaces() -> None:
    """Undo what the first namespace of a machine has made; there must be none left."""
    if str(NAMESPACES) in mounts_below(NAMESPACES.parent):
        run(["umount", NAMESPACES])
    NAMESPACES.rmdir()


def unplug(node: Node) -> None:
    """Pull the node's cable: all runs on, nothing is reached."""
    run(["ip", "link", "set", node.link, "down"])


def plug(node: Node) -> None:
    """Put the node's cable back."""
    run(["ip", "link", "set", node.link, "up"])
