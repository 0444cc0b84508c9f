"""The operator from its chart, runs of seconds and their bucket on the testbed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.config import Config
from testbed import build, kubectl
from testbed.errors import TestbedError
from testbed.fixtures import Testbed
from testbed.kubectl import Object
from testbed.layout import CHECKOUT, GPU, S3_ACCESS_KEY, S3_SECRET_KEY
from testbed.process import wait_until

from llm360.release.create import open_release
from llm360.spec.layers import merge
from llm360.storage import open_storage

SYSTEM = "llm360-system"
CHILDREN = "rayclusters.ray.io,rayjobs.ray.io,jobs,pods,configmaps,networkpolicies"
WORKLOADS = "workloads.kueue.x-k8s.io"
GONE_SECONDS = 240
STATUS_PORT = 9360
S3_ENDPOINT = "http://s3.llm360-testbed:8333"
CHART = CHECKOUT / "helm" / "llm360"
SAMPLE = CHECKOUT / "manifests" / "samples" / "amber-tiny.yaml"
# Little enough for three pods and a cluster on two cores; requests so small that one node has room for all.
SMALL: Object = {
    "model": {"vocabSize": 512},
    "training": {"sequenceLength": 128, "batchSize": 16},
    "parallelism": {"microBatch": 8},
    "recovery": {"backoffSeconds": 0, "maxAttempts": 20},
    "cluster": {
        "head": {"cpus": 0.2, "memory": "3Gi"},
        "workers": {"cpus": 0.2, "memory": "3Gi", "tolerations": [{"key": GPU, "operator": "Exists"}]},
    },
}


class Helm:
    """Helm, on the chart of this checkout."""

    chart = CHART

    def __init__(self, testbed: Testbed) -> None:
        self._environment = {**os.environ, "KUBECONFIG": testbed.kubeconfig}
        images = {"image": testbed.load("operator"), "trainerImage": testbed.load("trainer")}
        parts = {key: image.rpartition(":") for key, image in images.items()}
        self.values = [f"--set={key}.repository={part[0]},{key}.tag={part[2]}" for key, part in parts.items()]

    def __call__(self, *arguments: str) -> str:
        command = [build.program("helm", "helm"), *arguments, f"--namespace={SYSTEM}"]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, *values: str, chart: Path = CHART) -> None:
        """Install the chart, or upgrade it, and wait until its operator is ready."""
        wait = ["--create-namespace", "--wait", "--timeout=300s"]
        self("upgrade", "--install", "llm360", str(chart), *wait, *self.values, *values)

    def remove(self) -> None:
        """Uninstall the chart, if it is there."""
        self("uninstall", "llm360", "--ignore-not-found", "--wait")


@pytest.fixture(scope="session")
def operator(testbed: Testbed) -> Iterator[Helm]:
    """The operator, installed by Helm with the images of this checkout."""
    helm = Helm(testbed)
    helm.remove()  # what a killed test left
    helm.deploy()
    yield helm
    helm.remove()
    kubectl.kubectl("delete", "crd", "llm360runs.llm360.ai", "--wait=false")


@pytest.fixture
def bucket(testbed: Testbed, make_secret: Callable[[str, str], None]) -> str:
    """A bucket, and in the test's namespace the Secret that opens it."""
    name = f"releases-{secrets.token_hex(4)}"
    client = boto3.client(
        "s3",
        endpoint_url=testbed.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=S3_ACCESS_KEY,
        aws_secret_access_key=S3_SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=name)
    make_secret("releases-s3", S3_SECRET_KEY)
    return name


@pytest.fixture
def make_secret(namespace: str) -> Callable[[str, str], None]:
    """Makes Secrets of S3 credentials: `make_secret(name, key)`."""

    def make(name: str, key: str) -> None:
        data = {"AWS_ACCESS_KEY_ID": S3_ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": key}
        metadata = {"name": name, "namespace": namespace}
        kubectl.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}])

    return make


@dataclass
class Run:
    """A run of the cluster, as its user sees it, and its driver."""

    manifest: Object

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def uri(self) -> str:
        return str(self.manifest["spec"]["storage"]["uri"])

    def apply(self) -> None:
        kubectl.apply([self.manifest])

    def patch(self, spec: Object) -> None:
        where = [f"--namespace={self.namespace}", "--type=merge"]
        kubectl.kubectl("patch", "llm360run", self.name, *where, f"--patch={json.dumps({'spec': spec})}")

    def delete(self) -> None:
        kubectl.kubectl("delete", "llm360run", self.name, f"--namespace={self.namespace}", "--wait=false")

    def remove(self) -> None:
        """Delete it, and wait until all that was made for it has gone; what stays is named."""
        phase = self.status["phase"]
        self.delete()
        try:
            wait_until(lambda: not self.children(), "nothing left", GONE_SECONDS)
        except TestbedError:
            pytest.fail(f"removed in {phase}, {self.name} left {', '.join(self.children())}")

    def children(self) -> list[str]:
        found = kubectl.find(CHILDREN, self.namespace, f"llm360.ai/run={self.name}")
        found += [
            each for each in kubectl.find(WORKLOADS, self.namespace) if f"-{self.name}-" in each["metadata"]["name"]
        ]
        return [f"{each['kind']} {each['metadata']['name']}" for each in found]

    @property
    def status(self) -> Object:
        return dict((kubectl.get("llm360run", self.name, self.namespace) or {}).get("status", {}))

    def condition(self, kind: str = "Ready") -> Object:
        return next((each for each in self.status.get("conditions", []) if each["type"] == kind), {})

    def reason(self, condition: str = "Ready") -> str:
        return str(self.condition(condition).get("reason", ""))

    def message(self) -> str:
        return str(self.condition().get("message", ""))

    def describe(self) -> str:
        return kubectl.kubectl("describe", "llm360run", self.name, f"--namespace={self.namespace}")

    def pods(self, node_type: str = "") -> list[Object]:
        """Its Ray pods that are not on their way out."""
        of_type = f"ray.io/node-type={node_type}" if node_type else "ray.io/node-type"
        found = kubectl.find("pods", self.namespace, f"llm360.ai/run={self.name},{of_type}")
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def driver(self) -> Object:
        """What the driver itself says; {} where it does not answer."""
        for pod in self.pods("head"):
            if address := pod["status"].get("podIP"):
                url = f"http://{address}:{STATUS_PORT}/status"
                with contextlib.suppress(OSError, ValueError), urllib.request.urlopen(url, timeout=3) as answer:
                    return dict(json.load(answer))
        return {}

    def wait(self, check: Callable[[], object], what: str, seconds: float) -> None:
        """Wait; what does not come in time fails the test with what the run and its pods say."""
        try:
            wait_until(lambda: bool(check()), what, seconds)
        except TestbedError as error:
            pods = kubectl.kubectl("describe", "pods", f"--namespace={self.namespace}", f"-lllm360.ai/run={self.name}")
            pytest.fail(f"{error}\n{self.describe()[-4000:]}\n{pods[-3000:]}")

    def wait_for_reason(self, reason: str, seconds: float, condition: str = "Ready") -> None:
        self.wait(lambda: self.reason(condition) == reason, f"{condition}={reason} of {self.name}", seconds)

    def wait_for_step(self, step: int, seconds: float, attempt: int = 1) -> None:
        """Wait until the driver of that attempt or a later one has done the step."""

        def is_reached() -> bool:
            said = self.driver()
            return said.get("attempt", 0) >= attempt and said.get("step", 0) >= step

        self.wait(is_reached, f"step {step} of attempt {attempt}", seconds)


@pytest.fixture
def make_run(namespace: str, bucket: str) -> Callable[..., Run]:
    """Makes runs of the small sample: `make_run(name, **sections of the spec)`; they are not applied yet."""

    def make(name: str, **changes: Any) -> Run:
        run = yaml.safe_load(SAMPLE.read_text())
        run["metadata"] |= {"name": name, "namespace": namespace}
        run["spec"]["storage"] |= {"uri": f"s3://{bucket}/{name}", "endpoint": S3_ENDPOINT}
        run["spec"] = merge(run["spec"], SMALL, changes)
        return Run(run)

    return make


@pytest.fixture
def command(testbed: Testbed) -> Callable[..., str]:
    """Runs a program of this environment with the testbed's cluster and store; gives what it printed."""

    def run(program: str, *arguments: str | Path) -> str:
        path = f"{build.kubectl().parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **testbed.s3_environment, "KUBECONFIG": testbed.kubeconfig, "PATH": path}
        program = str(Path(sys.executable).with_name(program))
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def llm360(command: Callable[..., str]) -> Callable[..., str]:
    """Runs the command line: `llm360("verify", uri)`."""
    return lambda *arguments: command("llm360", *arguments)


@pytest.fixture
def kubectl_llm360(command: Callable[..., str]) -> Callable[..., str]:
    """Runs the plugin about a run: `kubectl_llm360("status", run)`."""

    def run(verb: str, of: Run, *arguments: str) -> str:
        return command("kubectl-llm360", verb, of.name, f"--namespace={of.namespace}", *arguments)

    return run


@dataclass
class Watcher:
    """The cluster's Prometheus, and Alertmanager beside it."""

    prometheus: str

    @property
    def alertmanager(self) -> str:
        return self.prometheus.replace(":9090", ":9093")

    def ask(self, address: str, **parameters: str) -> Any:
        url = f"{address}?{urllib.parse.urlencode(parameters)}" if parameters else address
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)

    def newest(self, selector: str) -> float:
        """The value that was scraped last within half an hour, whichever pod said it."""
        found = self.ask(f"{self.prometheus}/api/v1/query", query=f"{selector}[30m]")["data"]["result"]
        _, value = max(sample for series in found for sample in series["values"])
        return float(value)

    def alerts(self, namespace: str) -> dict[tuple[str, str], Object]:
        """What Alertmanager was told of runs in the namespace, by the alert's and the run's name."""
        told = (each | each["labels"] for each in self.ask(f"{self.alertmanager}/api/v2/alerts"))
        return {(each["alertname"], each["run"]): each for each in told if each.get("namespace") == namespace}


@pytest.fixture(scope="session")
def watcher(testbed: Testbed) -> Watcher:
    """Who watches the cluster."""
    return Watcher(testbed.prometheus)


@pytest.fixture
def bits_of(testbed: Testbed, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[int, str, str]]]:
    """Step, model and state digest of each published checkpoint of a release: the bits of its whole run."""
    for name, value in testbed.s3_environment.items():
        monkeypatch.setenv(name, value)

    def bits(uri: str | Path) -> list[tuple[int, str, str]]:
        history = open_release(open_storage(str(uri))).history()
        assert history.complete is not None, f"{uri} is not complete"
        return [(c.step, c.body.digests.model, c.body.digests.state) for c in history.branch if c.body.published]

    return bits
