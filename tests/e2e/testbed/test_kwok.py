"""Nodes that only exist in the API."""

from __future__ import annotations

from testbed import kubectl, kwok
from testbed.fixtures import pod
from testbed.process import wait_until

COUNT = 20


def test_nodes_in_name_come_run_pods_in_name_and_go(testbed, namespace):
    kwok.scale(COUNT)
    try:
        made = pod("nowhere", namespace, "no/such:image")
        made["spec"] |= {"nodeSelector": {"type": "kwok"}, "tolerations": [{"operator": "Exists"}]}
        kubectl.apply([made])
        wait_until(
            lambda: (kubectl.get("pod", "nowhere", namespace) or {})["status"]["phase"] in {"Running", "Succeeded"},
            "a pod in name",
            60,
        )
    finally:
        kwok.scale(0)
    assert {each["metadata"]["name"] for each in kubectl.find("nodes")} == {"node0", "node1"}
