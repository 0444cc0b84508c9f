"""pytest fixtures of the testbed, and the hooks that they need; tests/conftest.py imports them for all tests."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from testbed import addons, build, cluster, images, kubectl, layout, needs
from testbed.errors import TestbedError
from testbed.kubectl import Object
from testbed.process import wait_until

BEGAN = time.monotonic()
TOTAL, WARM_BY, COLD_BY = 85 * 60.0, 62 * 60.0, 45 * 60.0
"""Seconds that a whole run of the tests may take, and until when the cluster's may begin: built, or still to build."""
ALONE = "run them alone: pytest tests/integration/testbed tests/e2e"
FIRST_SECONDS = 2700
"""Longest time of one test, what it waits for included: programs and images that are made once."""


def say(line: str) -> None:
    """Progress, shown by pytest -s and beside a failure."""
    print(f"testbed: {line}", flush=True)


def _needs_machine(item: pytest.Item) -> bool:
    return "machine" in getattr(item, "fixturenames", ())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test of the testbed time to wait for what is built once, and for what it is said to take."""
    for item in filter(_needs_machine, items):
        item.add_marker(pytest.mark.timeout(FIRST_SECONDS + _takes(item)))


def _takes(item: pytest.Item) -> float:
    """Seconds that a test may take on a slow machine: `@pytest.mark.takes(minutes=20)`."""
    marker = item.get_closest_marker("takes")
    return float(marker.kwargs["minutes"]) * 60 if marker else 0.0


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what would not end in time."""
    gone = time.monotonic() - BEGAN
    if gone + (takes := _takes(item)) > TOTAL:
        pytest.skip(f"{gone / 60:.0f} minutes are gone, and it may take {takes / 60:.0f}; {ALONE}")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build behind the tests that come first: most of them leave a processor idle, and building takes long."""
    is_wanted = any(map(_needs_machine, session.items)) and not session.config.option.collectonly
    if not is_wanted or needs.is_warm() or needs.missing():
        return
    # The kernel shares out processors among sessions first: there a process's own niceness counts for nothing.
    polite = '{ echo 19 > /proc/self/autogroup; } 2>/dev/null; exec nice -n 19 "$0" -m testbed build'
    with (layout.CACHE / "build.log").open("wb") as log:
        building = subprocess.Popen(
            ["sh", "-c", polite, sys.executable],
            cwd=layout.PACKAGE.parent,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(building.pid, signal.SIGTERM)
        building.wait()

    session.config.add_cleanup(end)


@pytest.fixture(scope="session")
def machine() -> None:
    """A machine that can run the testbed, with all programs built; elsewhere the test is skipped with the reason."""
    if reason := needs.missing():
        pytest.skip(reason)
    gone, limit = time.monotonic() - BEGAN, WARM_BY if needs.is_warm() else COLD_BY
    if gone > limit:
        pytest.skip(f"{gone / 60:.0f} minutes are gone, a cluster's tests would make it {TOTAL / 60:.0f}; {ALONE}")
    needs.install(say)
    build.build_all(say)


@pytest.fixture(scope="session")
def testbed(machine: None) -> Iterator[Testbed]:
    """The testbed, up: one that was up already stays, one that was not goes down at the end."""
    found = cluster.owner()
    is_ours = bool(found and found.ready and found.checkout == str(layout.CHECKOUT))
    cluster.up(say)
    yield Testbed()
    if not is_ours:
        cluster.down(say)


@pytest.fixture
def namespace(testbed: Testbed) -> Iterator[str]:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}])
    yield name
    kubectl.kubectl("delete", "namespace", name, "--wait=false")


class Testbed:
    """What a test asks of the testbed; kubectl.py and faults.py do the rest."""

    __test__ = False

    @property
    def kubeconfig(self) -> str:
        """File by which a client of any kind is the cluster's administrator."""
        return str(layout.KUBECONFIG)

    @property
    def s3_endpoint(self) -> str:
        """The S3 server as the machine reaches it; a pod says http://s3.llm360-testbed:8333."""
        return f"http://{addons.pod_address('s3')}:8333"

    @property
    def s3_environment(self) -> dict[str, str]:
        """Variables by which a process of this machine uses the S3 server."""
        return {
            "AWS_ENDPOINT_URL": self.s3_endpoint,
            "AWS_ACCESS_KEY_ID": layout.S3_ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": layout.S3_SECRET_KEY,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @property
    def prometheus(self) -> str:
        """Address of Prometheus as the machine reaches it."""
        return f"http://{addons.pod_address('prometheus')}:9090"

    def load(self, name: str, **options: Any) -> str:
        """Build an image of the project, push it, give its full name."""
        return images.load(name, say, **options)

    def run_to_end(self, pod: Object, seconds: float = 60.0) -> str:
        """Run a pod to its end and give what it printed; a failed pod fails the test with what it said."""
        name, space = pod["metadata"]["name"], pod["metadata"]["namespace"]
        kubectl.apply([pod])
        phase: list[str] = []

        def is_over() -> bool:
            phase[:] = [(kubectl.get("pod", name, space) or {}).get("status", {}).get("phase", "")]
            return phase[0] in {"Succeeded", "Failed"}

        wait_or_describe(is_over, f"the end of pod {name}", seconds, "pod", name, space)
        printed = kubectl.kubectl("logs", name, f"--namespace={space}")
        assert phase == ["Succeeded"], printed
        return printed


def wait_or_describe(
    check: Callable[[], bool], what: str, seconds: float, kind: str, name: str, namespace: str
) -> None:
    """Wait; what does not get there in time (an object, or all of a kind where `name` is empty) is described."""
    try:
        wait_until(check, what, seconds)
    except TestbedError as error:
        described = kubectl.kubectl("describe", kind, *filter(None, [name]), f"--namespace={namespace}")
        raise TestbedError(f"{error}\n{described[-3000:]}") from None


def pod(name: str, namespace: str, image: str, node: str | None = None, **container: Any) -> Object:
    """A pod that runs once; on the node, whatever it is tainted with, where one is named."""
    spec: Object = {"restartPolicy": "Never", "containers": [{"name": "main", "image": image, **container}]}
    if node:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
        spec["tolerations"] = [{"key": layout.GPU, "operator": "Exists"}]
    spec["terminationGracePeriodSeconds"] = 1
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace}, "spec": spec}
