"""Each fault is felt, and undone when it ends."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest
from testbed import addons, control_plane, faults, kubectl, network, node
from testbed.errors import TestbedError
from testbed.fixtures import pod
from testbed.layout import NODES
from testbed.process import wait_until

LOST_SECONDS = 60


def is_ready(name: str) -> bool:
    return kubectl.condition(kubectl.get("node", name), "Ready")


def answers(url: str) -> bool:
    """Whether the machine reaches it; the machine itself is not behind the nodes' switches."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


@pytest.fixture
def sleeper(testbed, namespace, probe_image):
    """A pod on node0 that goes on until it is told to end."""
    made = pod("sleeper", namespace, probe_image, "node0", command=["sleep", "3600"])
    made["spec"]["restartPolicy"] = "Always"
    kubectl.apply([made])
    wait_until(lambda: kubectl.condition(kubectl.get("pod", "sleeper", namespace), "Ready"), "the pod", 60)
    return "sleeper", namespace


def reaches_s3(sleeper) -> bool:
    name, namespace = sleeper
    code = "import urllib.request as r; r.urlopen('http://s3.llm360-testbed:8333/healthz', timeout=3)"
    try:
        kubectl.kubectl("exec", name, f"--namespace={namespace}", "--", "python3", "-c", code)
    except TestbedError:
        return False
    return True


def test_s3_is_cut_from_pods_and_keeps_its_own_health(testbed, sleeper):
    assert reaches_s3(sleeper)
    with faults.s3_cut():
        assert not reaches_s3(sleeper)
        assert addons.are_ready()["s3"]
    assert reaches_s3(sleeper)


def test_a_slow_link_is_slow_and_then_fast(testbed, sleeper):
    with faults.slow_link(NODES[0], "1mbit"):
        for where in (network.inside(NODES[0], ["tc", "qdisc", "show", "dev", "eth0"]), queue_of(NODES[0].link)):
            assert "rate 1Mbit" in where
        assert reaches_s3(sleeper)
    assert "tbf" not in network.inside(NODES[0], ["tc", "qdisc", "show", "dev", "eth0"]) + queue_of(NODES[0].link)


def queue_of(link: str) -> str:
    return faults.run(["tc", "qdisc", "show", "dev", link])


def test_a_full_disk_takes_no_byte_more(testbed):
    file = node.disk("s3") / "one-more"
    try:
        with faults.full_disk("s3"), pytest.raises(OSError, match="No space left"):
            file.write_bytes(b"x" * (1 << 20))
        file.write_bytes(b"x" * (1 << 20))
    finally:
        file.unlink(missing_ok=True)
    with pytest.raises(TestbedError, match="there is no disk 's4'"), faults.full_disk("s4"):
        pass


def test_the_api_server_comes_back(testbed):
    with faults.api_server_down():
        assert not control_plane.is_api_ready()
    assert control_plane.is_api_ready()
    wait_until(lambda: is_ready("node0") and is_ready("node1"), "the nodes", LOST_SECONDS)


def test_kuberay_comes_back(testbed):
    before = {each["metadata"]["uid"] for each in kubectl.find("pods", selector=addons.PARTS["kuberay"].selector)}
    with faults.kuberay():
        pass

    def is_back() -> bool:
        now = {each["metadata"]["uid"] for each in kubectl.find("pods", selector=addons.PARTS["kuberay"].selector)}
        return not now & before and addons.are_ready()["kuberay"]

    wait_until(is_back, "KubeRay", 90)


def test_what_is_not_there_cannot_be_killed(testbed):
    with pytest.raises(TestbedError, match="no pod has the labels"), faults.head("no-such-cluster"):
        pass


@pytest.mark.parametrize("fault", [faults.node_cut, faults.node_lost])
def test_a_node_is_missed_and_comes_back_with_its_pods(testbed, sleeper, fault, capsys):
    name, namespace = sleeper
    with fault(NODES[0]):
        wait_until(lambda: not is_ready("node0"), "the loss of node0", LOST_SECONDS)
    wait_until(lambda: is_ready("node0"), "node0", LOST_SECONDS)
    wait_until(lambda: reaches_s3(sleeper), f"pod {name} of {namespace}, on S3 again", 90)
    assert addons.are_ready() == dict.fromkeys(addons.PARTS, True)
