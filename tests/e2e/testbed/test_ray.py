"""KubeRay and Kueue as a run uses them: a queue on GPUs in name, token authentication, Ray Train on two workers."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from testbed import kubectl
from testbed.fixtures import Testbed, wait_or_describe
from testbed.layout import GPU
from testbed.process import wait_until

TRAIN = Path(__file__).parent / "train.py"
TOLERATIONS = [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
READY_SECONDS, DONE_SECONDS = 900, 300
PORTS = {"gcs-server": 6379, "client": 10001, "dashboard": 8265, "metrics": 8080}


@pytest.fixture
def queue(namespace):
    """A local queue over both nodes' GPUs."""
    flavor = {"nodeLabels": {"llm360.ai/train": "true"}, "tolerations": TOLERATIONS}
    quota = [{"name": name, "nominalQuota": value} for name, value in (("cpu", 64), ("memory", "256Gi"), (GPU, 16))]
    group = {"coveredResources": [each["name"] for each in quota], "flavors": [{"name": namespace, "resources": quota}]}
    select = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    api = "kueue.x-k8s.io/v1beta1"
    queue_spec = {"namespaceSelector": select, "resourceGroups": [group]}
    made = [
        {"apiVersion": api, "kind": "ResourceFlavor", "metadata": {"name": namespace}, "spec": flavor},
        {"apiVersion": api, "kind": "ClusterQueue", "metadata": {"name": namespace}, "spec": queue_spec},
        {
            "apiVersion": api,
            "kind": "LocalQueue",
            "metadata": {"name": "gpus", "namespace": namespace},
            "spec": {"clusterQueue": namespace},
        },
    ]
    kubectl.apply(made)
    yield "gpus"
    kubectl.kubectl("delete", "clusterqueue,resourceflavor", namespace, "--wait=false")


def pods(image: str, **resources: str) -> dict:
    container = {
        "name": "ray",
        "image": image,
        "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "4Gi", **resources}},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "code", "mountPath": "/code"}],
    }
    volumes = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}},
        {"name": "code", "configMap": {"name": "train"}},
    ]
    return {"spec": {"containers": [container], "volumes": volumes}}


def ray_cluster(namespace: str, queue: str, image: str) -> dict:
    head = pods(image)
    head["spec"]["containers"][0]["ports"] = [{"name": n, "containerPort": port} for n, port in PORTS.items()]
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "demo", "namespace": namespace, "labels": {"kueue.x-k8s.io/queue-name": queue}},
        "spec": {
            "rayVersion": "2.60.0",
            "suspend": True,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {"rayStartParams": {"num-cpus": "0", "num-gpus": "0"}, "template": head},
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": 2,
                    "minReplicas": 2,
                    "maxReplicas": 2,
                    # GPUs are there in name alone: Ray must not look for them.
                    "rayStartParams": {"num-cpus": "1", "num-gpus": "0", "resources": "'{\"pool\": 1}'"},
                    "template": pods(image, **{GPU: "8"}),
                }
            ],
        },
    }


def ray_job(namespace: str) -> dict:
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": {"name": "train", "namespace": namespace},
        "spec": {
            "entrypoint": "python /code/train.py",
            "clusterSelector": {"ray.io/cluster": "demo"},
            "submissionMode": "HTTPMode",
        },
    }


def test_a_queued_cluster_trains_on_two_workers(testbed: Testbed, namespace, queue, capsys):
    image = testbed.load("trainer")
    code = {"train.py": TRAIN.read_text()}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "train", "namespace": namespace}}
    began = time.monotonic()
    kubectl.apply([{**config, "data": code}, ray_cluster(namespace, queue, image)])

    def is_ready() -> bool:
        status = (kubectl.get("raycluster", "demo", namespace) or {}).get("status", {})
        return kubectl.condition({"status": status}, "HeadPodReady") and status.get("readyWorkerReplicas") == 2

    def state() -> str:
        return (kubectl.get("rayjob", "train", namespace) or {}).get("status", {}).get("jobStatus", "")

    wait_or_describe(is_ready, "a ready RayCluster", READY_SECONDS, "raycluster,pods", "", namespace)
    ready = time.monotonic()
    spread = {pod["spec"]["nodeName"] for pod in kubectl.find("pods", namespace, "ray.io/node-type=worker")}
    assert spread == {"node0", "node1"}, "eight GPUs each: one worker a node, and Kueue's flavor tolerates the taint"
    workload = kubectl.find("workloads.kueue.x-k8s.io", namespace)[0]
    assert kubectl.condition(workload, "Admitted")

    head = kubectl.find("pods", namespace, "ray.io/node-type=head")[0]["status"]["podIP"]
    with pytest.raises(urllib.error.HTTPError, match="401"):  # without the token
        urllib.request.urlopen(f"http://{head}:{PORTS['dashboard']}/api/jobs/", timeout=10)

    kubectl.apply([ray_job(namespace)])
    wait_until(lambda: state() in {"SUCCEEDED", "FAILED", "STOPPED"}, "the end of the job", DONE_SECONDS)
    printed = kubectl.kubectl(
        "get", "rayjob", "train", f"--namespace={namespace}", "--output=jsonpath={.status.message}"
    )
    assert state() == "SUCCEEDED", printed
    with capsys.disabled():
        print(f"\nRayCluster ready in {ready - began:.0f} s, Ray Train done {time.monotonic() - ready:.0f} s later")
