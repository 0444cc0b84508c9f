"""Faults, each a context that undoes itself when it ends, however it ends.

What Kubernetes mends by itself (a pod that was killed) has nothing to undo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import addons, control_plane, network, node
from testbed.cluster import are_nodes_ready
from testbed.errors import TestbedError
from testbed.kubectl import find, kubectl
from testbed.layout import NODES, Node
from testbed.process import kill, run, wait_until

BACK_SECONDS = 120.0
BLOCK_BYTES = 4096
OPERATOR = "app.kubernetes.io/name=llm360-operator"
"""Labels of the operator's pods, as the chart gives them."""


@contextmanager
def pod(name: str, namespace: str = "default") -> Iterator[None]:
    """A pod is killed by force; its controller makes another."""
    _kill_pod(name, namespace)
    yield


def _kill_pod(name: str, namespace: str) -> None:
    kubectl("delete", "pod", name, f"--namespace={namespace}", "--grace-period=0", "--force", "--wait=false")


@contextmanager
def pods(selector: str, namespace: str | None = None) -> Iterator[None]:
    """All pods with these labels are killed by force."""
    found = find("pods", namespace, selector)
    if not found:
        raise TestbedError(f"no pod has the labels {selector!r}; `kubectl get pods -A --show-labels` lists them")
    for each in found:
        _kill_pod(each["metadata"]["name"], each["metadata"]["namespace"])
    yield


@contextmanager
def head(cluster: str, namespace: str = "default") -> Iterator[None]:
    """The head of a RayCluster is killed by force."""
    with pods(f"ray.io/node-type=head,ray.io/cluster={cluster}", namespace):
        yield


@contextmanager
def kuberay() -> Iterator[None]:
    """KubeRay's operator is killed by force."""
    part = addons.PARTS["kuberay"]
    with pods(part.selector, part.namespace):
        yield


@contextmanager
def operator() -> Iterator[None]:
    """The llm360 operator is killed by force."""
    with pods(OPERATOR):
        yield


@contextmanager
def node_lost(lost: Node) -> Iterator[None]:
    """A node loses its power: kubelet, containers and network at once; then it starts again."""
    network.unplug(lost)
    kill(lost.group)
    try:
        yield
    finally:
        network.plug(lost)
        node.restart(lost)
        wait_until(are_nodes_ready, f"{lost.name}, back", BACK_SECONDS, log=f"{lost.name}-kubelet")


@contextmanager
def node_cut(cut: Node) -> Iterator[None]:
    """A node's cable is pulled: its containers run on and reach nothing beyond it."""
    network.unplug(cut)
    try:
        yield
    finally:
        network.plug(cut)


@contextmanager
def api_server_down() -> Iterator[None]:
    """The API server crashes; then it starts again."""
    control_plane.kill_api_server()
    try:
        yield
    finally:
        control_plane.start_api_server()


@contextmanager
def s3_cut() -> Iterator[None]:
    """Nothing reaches the S3 server: packets to it vanish, as behind a broken switch. Its own probes still pass."""
    rule = ["FORWARD", "--destination", addons.pod_address("s3"), "--jump", "DROP"]
    with _rules([(each, rule) for each in NODES]):
        yield


@contextmanager
def _rules(rules: list[tuple[Node, list[str]]]) -> Iterator[None]:
    made: list[tuple[Node, list[str]]] = []
    try:
        for each, rule in rules:
            network.inside(each, ["iptables", "--wait", "--insert", *rule])
            made.append((each, rule))
        yield
    finally:
        for each, rule in made:
            network.inside(each, ["iptables", "--wait", "--delete", *rule])


@contextmanager
def full_disk(name: str) -> Iterator[None]:
    """The disk of a node's pods (node0, node1) or of the S3 server (s3) is filled to the last byte."""
    folder = node.disk(name)
    if not folder.is_mount():
        raise TestbedError(f"there is no disk {name!r} at {folder}; `python -m testbed fault --help` names them")
    filler = folder / "filler"
    try:
        _fill(filler)
        yield
    finally:
        filler.unlink(missing_ok=True)


def _fill(filler: Path) -> None:
    """Grow a file until not one block more is to be had."""
    size, step = 0, 1 << 30
    with filler.open("wb") as file:
        while step >= BLOCK_BYTES:
            try:
                os.posix_fallocate(file.fileno(), size, step)
                size += step
            except OSError:
                step //= 2


@contextmanager
def slow_link(slow: Node, rate: str = "10mbit") -> Iterator[None]:
    """A node's cable carries no more than `rate` (as tc writes it: 10mbit), both ways."""
    shape = ["root", "tbf", "rate", rate, "burst", "64kb", "latency", "200ms"]
    try:
        run(["tc", "qdisc", "replace", "dev", slow.link, *shape])
        network.inside(slow, ["tc", "qdisc", "replace", "dev", "eth0", *shape])
        yield
    finally:
        # `replace` with the default queue undoes ours and does not mind where it is not there.
        run(["tc", "qdisc", "replace", "dev", slow.link, "root", "pfifo_fast"])
        network.inside(slow, ["tc", "qdisc", "replace", "dev", "eth0", "root", "pfifo_fast"])
