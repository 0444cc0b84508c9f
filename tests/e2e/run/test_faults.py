"""One long run, and everything around it fails in turn: it goes on, ends, verifies, and has the bits of a quiet run."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from testbed import audit, faults, layout
from testbed.process import wait_until

START_SECONDS, STEP_SECONDS, NODE_STEP_SECONDS, DONE_SECONDS = 600, 240, 400, 900
S3_AWAY_SECONDS = 60.0


class Trials:
    """Puts a run through faults and says how long each kept it from its next training step."""

    def __init__(self, run: Any, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say

    def note(self, what: str, began: float) -> None:
        self.say(f"{what}: {time.monotonic() - began:.0f} s")

    def kill(self, what: str, fault: AbstractContextManager[None], seconds: float = STEP_SECONDS) -> None:
        """The fault ends the attempt; while it lasts, a new one goes on from the last checkpoint."""
        attempt = self.settled()["attempt"]
        began = time.monotonic()
        with fault:
            self.run.wait_for_step(1, seconds, attempt + 1)
            self.note(f"{what}, next step after", began)

    def spare(self, what: str, fault: AbstractContextManager[None]) -> None:
        """The fault, which is over when its context is entered, has not ended the attempt."""
        before = self.settled()
        began = time.monotonic()
        with fault:
            self.run.wait_for_step(before["step"] + 1, STEP_SECONDS)
            self.note(f"{what}, next step after", began)
        assert self.run.driver()["attempt"] == before["attempt"]

    def settled(self) -> Any:
        """Wait until the object says that the run trains; what its driver says."""
        self.run.wait(lambda: self.run.reason() == "Training", "Training", STEP_SECONDS)
        self.run.wait(self.run.driver, "an answer of the driver", STEP_SECONDS)
        return self.run.driver()


def pod_killed(run: Any, node_type: str) -> AbstractContextManager[None]:
    return faults.pod(run.pods(node_type)[0]["metadata"]["name"], run.namespace)


@contextmanager
def api_server_restarted() -> Iterator[None]:
    with faults.api_server_down():
        pass
    yield


@contextmanager
def s3_was_away() -> Iterator[None]:
    with faults.s3_cut():
        back = time.monotonic() + S3_AWAY_SECONDS
        wait_until(lambda: time.monotonic() > back, "the end of the outage", 2 * S3_AWAY_SECONDS)
    yield


@contextmanager
def upgraded(operator: Any, folder: Path) -> Iterator[None]:
    """The next version of the chart is installed; then the first is brought back."""
    newer = folder / "llm360"
    shutil.copytree(operator.chart, newer)
    chart = yaml.safe_load((newer / "Chart.yaml").read_text())
    (newer / "Chart.yaml").write_text(yaml.safe_dump(chart | {"version": "99.0.0"}))
    operator.deploy("--set=podLabels.chart=newer", chart=newer)
    operator("rollback", "llm360", "--wait")
    yield


def created(resource: str, namespace: str) -> list[str]:
    """Names of all objects of a kind that were ever made there, from the API server's audit log."""
    made = (request for request in audit.requests() if request.verb == "create" and 200 <= request.code < 300)
    return [each.name for each in made if (each.resource, each.namespace) == (resource, namespace)]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line that is seen in a test that passes, too."""

    def line(text: str) -> None:
        with capsys.disabled():
            print(f"\n  {text}", end="", flush=True)

    return line


@pytest.mark.takes(minutes=22)
def test_a_run_outlives_everything_around_it(operator, testbed, watcher, make_run, llm360, bits_of, tmp_path, say):
    run = make_run("amber", data={"chunks": 32})
    began = time.monotonic()
    run.apply()
    run.wait_for_step(1, START_SECONDS)
    trials = Trials(run, say)
    trials.note("from apply to the first step", began)
    trials.kill("a worker is killed", pod_killed(run, "worker"))
    trials.kill("the head is killed", pod_killed(run, "head"))
    node = layout.node("node0")
    assert node.name in {pod["spec"]["nodeName"] for pod in run.pods("worker")}, "no worker on the node to be lost"
    trials.kill("a node is lost", faults.node_lost(node), NODE_STEP_SECONDS)
    trials.spare("the operator is killed", faults.operator())
    trials.spare("KubeRay is killed", faults.kuberay())
    trials.spare("the API server restarts", api_server_restarted())
    trials.spare(f"S3 was away for {S3_AWAY_SECONDS:.0f} s", s3_was_away())
    trials.spare("the chart is upgraded and rolled back", upgraded(operator, tmp_path))

    run.wait_for_reason("Complete", DONE_SECONDS, "Succeeded")
    trials.note("from apply to the end", began)
    status = run.status
    assert status["phase"] == "Succeeded"
    assert status["step"] == status["totalSteps"]
    run.wait(lambda: not run.pods(), "the end of all pods", 120)
    assert created("rayclusters", run.namespace) == ["amber"], "one cluster, whatever happened"
    llm360("verify", run.uri)

    said = llm360("metrics", run.uri, "--format", "jsonl", "--from-step", str(status["totalSteps"]))
    series = f'{{namespace="{run.namespace}",run="amber"}}'
    assert watcher.newest(f"llm360_train_step{series}") == status["totalSteps"]
    assert watcher.newest(f"llm360_train_loss{series}") == json.loads(said)["loss"], "Prometheus and the ledger"

    spec = tmp_path / "quiet.yaml"
    run.manifest["spec"]["storage"]["endpoint"] = testbed.s3_endpoint  # this machine asks other names
    spec.write_text(yaml.safe_dump(run.manifest))
    data = ["--set", f"data.uri={run.uri}/data/stage1"]
    llm360("run", spec, "--store", tmp_path / "quiet", "--port", "0", *data)
    assert bits_of(run.uri) == bits_of(tmp_path / "quiet")
