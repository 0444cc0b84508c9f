"""A run in a queue: Kueue takes its place away and gives it back, its user suspends, resizes and resumes it."""

from __future__ import annotations

import json

import pytest
import yaml
from testbed import kubectl
from testbed.layout import CHECKOUT, GPU

SAMPLE = CHECKOUT / "manifests" / "samples" / "replay.yaml"
START_SECONDS, STEP_SECONDS, DONE_SECONDS = 600, 300, 900
KUEUE = "kueue.x-k8s.io/v1beta1"
PRIORITY = 1000
CPUS = "700m"
"""What head and two workers ask for (0.6), and a little: there is room for one run."""


@pytest.fixture
def queues(namespace):
    """`own` has room for one run; `default` has none of its own and borrows what `own` does not use.

    By its name Kueue puts into it whatever names no queue: the first run, and the preflights of both.
    """
    flavor = {"tolerations": [{"key": GPU, "operator": "Exists"}]}
    priority = {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "value": PRIORITY}
    made = [priority | {"metadata": {"name": namespace}}]
    made += [{"apiVersion": KUEUE, "kind": "ResourceFlavor", "metadata": {"name": namespace}, "spec": flavor}]
    for name, cpus, memory in (("own", CPUS, "12Gi"), ("default", "0", "0")):
        quota = [{"name": "cpu", "nominalQuota": cpus}, {"name": "memory", "nominalQuota": memory}]
        flavors = [{"name": namespace, "resources": quota}]
        spec = {
            "cohort": namespace,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "resourceGroups": [{"coveredResources": ["cpu", "memory"], "flavors": flavors}],
            "preemption": {"reclaimWithinCohort": "Any"},
        }
        cluster_queue = {"name": f"{namespace}-{name}"}
        made += [
            {"apiVersion": KUEUE, "kind": "ClusterQueue", "metadata": cluster_queue, "spec": spec},
            {
                "apiVersion": KUEUE,
                "kind": "LocalQueue",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"clusterQueue": cluster_queue["name"]},
            },
        ]
    kubectl.apply(made)
    yield
    names = [f"{namespace}-own", f"{namespace}-default"]
    kubectl.kubectl("delete", "clusterqueues", *names, "--wait=false")
    kubectl.kubectl("delete", "resourceflavors,priorityclasses", namespace, "--wait=false")


def make_replay(run, image, workers):
    """The sample's RayJob, of this run's release, with as little as a run's pods have here."""
    ours = run.manifest["spec"]["storage"]
    text = SAMPLE.read_text().replace("s3://releases/amber-tiny", ours["uri"])
    job = yaml.safe_load(text.replace("http://minio.minio:9000", ours["endpoint"]))
    job["metadata"]["namespace"] = run.namespace
    cluster = job["spec"]["rayClusterSpec"]
    group = cluster["workerGroupSpecs"][0]
    group |= dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), workers)
    for pod in (cluster["headGroupSpec"]["template"], group["template"], job["spec"]["submitterPodTemplate"]):
        pod["spec"]["tolerations"] = [{"key": GPU, "operator": "Exists"}]
        pod["spec"]["containers"][0]["image"] = image
        pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = "100m"
    return job


def has_steps_at_stake(driver, attempt):
    """Whether an attempt has made some steps since the last checkpoint, and the next one is not due at once."""
    return driver.get("attempt", 0) >= attempt and 2 <= driver["step"] - driver["lastCheckpointStep"] <= 15


def has_ended(job):
    found = kubectl.get("rayjob", job["metadata"]["name"], job["metadata"]["namespace"])
    return found is not None and found.get("status", {}).get("jobDeploymentStatus") in ("Complete", "Failed")


@pytest.mark.takes(minutes=15)
def test_a_run_is_preempted_readmitted_suspended_resized_and_resumed(
    operator, testbed, namespace, queues, make_run, kubectl_llm360, llm360
):
    run = make_run("borrower", data={"chunks": 8})
    run.apply()
    run.wait_for_step(1, START_SECONDS)
    cluster = kubectl.get("raycluster", run.name, run.namespace)
    assert cluster["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "default"
    assert "borrower" in kubectl_llm360("logs", run, "--tail=20"), "the driver's lines name the run"

    owner = make_run("owner", data={"chunks": 8}, cluster={"queue": "own", "priorityClass": namespace})
    owner.apply()
    run.wait_for_reason("Preempted", STEP_SECONDS, "Suspended")
    before = run.status
    assert before["phase"] == "Suspended"
    owner.wait(owner.pods, "pods of the run that was served first", STEP_SECONDS)
    priorities = {each["spec"].get("priority", 0) for each in kubectl.find("workloads", namespace)}
    assert priorities == {0, PRIORITY}
    run.wait(lambda: not run.pods(), "the end of the pods of the preempted run", STEP_SECONDS)
    owner.delete()  # in the phase Starting

    run.wait(lambda: has_steps_at_stake(run.driver(), before["attempt"] + 1), "steps to lose", STEP_SECONDS)
    assert run.status.get("failures", 0) == 0, "a preemption counted as a failure"

    kubectl_llm360("suspend", run)
    run.wait(
        lambda: run.status["phase"] == "Suspended" and not run.pods(), "a suspended run without pods", STEP_SECONDS
    )
    suspended = run.status
    assert "Suspended" in kubectl_llm360("status", run)

    run.patch({"cluster": {"workers": {"replicas": 1}}})
    kubectl_llm360("resume", run)
    run.wait_for_step(suspended["step"] + 1, STEP_SECONDS, suspended["attempt"] + 1)
    *_, claim = json.loads(llm360("ls", run.uri, "-o", "json"))["attempts"]
    assert claim["fromStep"] == suspended["step"], "a suspended run has no step to make again"
    assert len(run.pods("worker")) == 1

    run.wait_for_reason("Complete", DONE_SECONDS, "Succeeded")
    run.wait(lambda: not run.pods(), "the end of all pods", STEP_SECONDS)
    kubectl_llm360("verify", run, "--endpoint", testbed.s3_endpoint)

    replay = make_replay(run, testbed.load("trainer"), workers=1)
    kubectl.apply([replay])
    run.wait(lambda: has_ended(replay), "the end of the replay", STEP_SECONDS)
    said = kubectl.kubectl(
        "logs", f"--namespace={namespace}", f"--selector=job-name={replay['metadata']['name']}", "--tail=-1"
    )
    assert "the same bits" in said, said
    run.remove()
    assert "complete" in llm360("status", run.uri), "the release is gone with its object"
