"""Nodes that only exist in the API, kept alive by kwok: for tests of scale."""

from __future__ import annotations

from testbed.build import program
from testbed.control_plane import CONTROL, kubeconfig
from testbed.kubectl import Object, apply, condition, find, kubectl
from testbed.process import is_running, start, wait_until

LABEL = "type=kwok"
READY_SECONDS = 120.0
ANNOTATION = "kwok.x-k8s.io/node"


def scale(count: int) -> None:
    """Have that many such nodes; each is tainted, so that only what asks for one lands there."""
    if count and not is_running(CONTROL, "kwok"):
        command = [program("kwok", "kwok"), f"--kubeconfig={kubeconfig('admin')}"]
        start("kwok", [*command, f"--manage-nodes-with-annotation-selector={ANNOTATION}=fake"], group=CONTROL)
    names = [f"kwok-{index}" for index in range(count)]
    if surplus := [
        each["metadata"]["name"] for each in find("nodes", selector=LABEL) if each["metadata"]["name"] not in names
    ]:
        kubectl("delete", "nodes", *surplus)
    if not names:
        return
    apply(_node(name) for name in names)
    wait_until(lambda: _ready() >= count, f"{count} kwok nodes", READY_SECONDS, log="kwok")


def _ready() -> int:
    return sum(condition(each, "Ready") for each in find("nodes", selector=LABEL))


def _node(name: str) -> Object:
    key, _, value = LABEL.partition("=")
    room = {"cpu": "32", "memory": "256Gi", "pods": "110", "nvidia.com/gpu": "8"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {key: value, "kubernetes.io/hostname": name},
            "annotations": {ANNOTATION: "fake"},
        },
        "spec": {"taints": [{"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}]},
        "status": {"allocatable": room, "capacity": room},
    }
