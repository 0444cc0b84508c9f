"""Manifests: what KubeRay, Kueue and Kubernetes need in them, and what no user can put there."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from llm360.spec import resolve
from llm360_operator import builders
from llm360_operator.names import config_name, job_name

ROOT = Path(__file__).parents[3]


@pytest.fixture
def build(make_run):
    """The children of a run with a changed specification."""

    def build(name="amber", **spec):
        run = make_run(**spec)
        run["metadata"]["name"] = name
        spec.setdefault("cluster", {}).setdefault("image", "trainer:1")
        document = {key: run[key] for key in ("apiVersion", "kind", "metadata")}
        config = resolve(document | {"spec": run["spec"] | {"cluster": {"image": "trainer:1"} | spec["cluster"]}})
        return {
            "ConfigMap": builders.config_map(run, "amber-config", config),
            "NetworkPolicy": builders.network_policy(run),
            "Job": builders.preflight_job(run, config, "amber-config", "operator:1"),
            "RayCluster": builders.ray_cluster(run, config, "amber-config"),
            "RayJob": builders.ray_job(run, 3),
        }

    return build


def pods(children):
    cluster = children["RayCluster"]["spec"]
    head, (workers,) = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"]
    return [head["spec"], workers["template"]["spec"], children["Job"]["spec"]["template"]["spec"]]


def test_every_child_goes_with_its_run(build):
    for kind, child in build().items():
        assert child["kind"] == kind
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["kind"], owner["controller"]) == ("u-1", "LLM360Run", True)
        assert child["metadata"]["namespace"] == "research"
        assert child["metadata"]["labels"]["llm360.ai/run"] == "amber"


def test_pods_are_restricted_and_know_no_kubernetes(build):
    for pod in pods(build()):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        (container,) = pod["containers"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {tuple(sorted(set(volume) - {"name"})) for volume in pod["volumes"]} <= {("configMap",), ("emptyDir",)}
        lost = [t for t in pod["tolerations"] if t["key"].startswith("node.kubernetes.io/")]
        assert [t["tolerationSeconds"] for t in lost] == [30, 30]


def test_credentials_come_by_reference(build):
    for pod in pods(build(storage={"uri": "s3://b/x", "secretRef": {"name": "s3"}, "serviceAccountName": "writer"})):
        assert pod["serviceAccountName"] == "writer"
        assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3"}}]


def test_the_head_has_all_its_ports_and_the_configuration_as_one_file(build):
    head, worker, preflight = (pod["containers"][0] for pod in pods(build()))
    ports = {port["name"]: port["containerPort"] for port in head["ports"]}
    assert ports == {"gcs-server": 6379, "client": 10001, "dashboard": 8265, "metrics": 8080, "status": 9360}
    mount = {"name": "config", "mountPath": "/etc/llm360/run.json", "subPath": "run.json", "readOnly": True}
    assert mount in head["volumeMounts"]
    assert mount in preflight["volumeMounts"]
    assert mount not in worker["volumeMounts"]
    assert {"name": "LLM360_LOG_COPY", "value": "/proc/1/fd/1"} in head["env"]


def test_who_may_reach_a_runs_pods(build):
    children = build()
    spec = children["NetworkPolicy"]["spec"]
    for pod in (children["RayCluster"]["spec"]["headGroupSpec"]["template"], children["Job"]["spec"]["template"]):
        assert spec["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    inside, *outside = spec["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": {"llm360.ai/run": "amber"}}}]}
    allowed = [
        (*rule["from"][0]["podSelector"]["matchLabels"].values(), [port["port"] for port in rule["ports"]])
        for rule in outside
    ]
    assert allowed == [("kuberay-operator", [8265]), ("llm360-operator", [9360]), ("prometheus", [9360, 8080])]


def test_ray_is_told_what_a_pod_has(build):
    spec = build(cluster={"workers": {"device": "cuda", "gpus": 8, "cpus": 32, "memory": "256Gi", "replicas": 2}})
    cluster = spec["RayCluster"]["spec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert workers["rayStartParams"] == {"num-cpus": "32", "num-gpus": "8"}
    assert [workers[key] for key in ("replicas", "minReplicas", "maxReplicas")] == [2, 2, 2]
    assert workers["template"]["spec"]["terminationGracePeriodSeconds"] == 5
    container = workers["template"]["spec"]["containers"][0]
    assert container["env"] == [{"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": "15"}]
    assert container["resources"]["limits"] == {"memory": "256Gi", "nvidia.com/gpu": "8"}
    (shm,) = workers["template"]["spec"]["volumes"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "131072Mi"}


def test_on_cpus_no_gpu_is_asked_for(build):
    (workers,) = build()["RayCluster"]["spec"]["workerGroupSpecs"]
    assert workers["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in json.dumps(workers)


def test_a_queue_has_the_last_word(build):
    cluster = build(cluster={"queue": "gpus"})["RayCluster"]
    assert cluster["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert cluster["spec"]["suspend"] is True
    assert "suspend" not in build()["RayCluster"]["spec"]


def test_a_job_is_submitted_by_kuberay_to_the_runs_cluster(build):
    assert build()["RayJob"]["spec"] == {
        "entrypoint": "llm360 run /etc/llm360/run.json --address auto",
        "jobId": "amber-3",
        "submissionMode": "HTTPMode",
        "clusterSelector": {"ray.io/cluster": "amber"},
        "shutdownAfterJobFinishes": False,
    }


@pytest.mark.parametrize("text", ["$(id)", "`id`", "; id", "' || id #", "{{x}}"])
def test_nothing_that_a_user_writes_reaches_a_command(build, text):
    children = build(
        release={"description": text, "authors": [text]}, storage={"uri": "s3://b/" + text.strip().split()[0]}
    )
    assert children["RayJob"] == build()["RayJob"]
    for pod, plain in zip(pods(children), pods(build()), strict=True):
        assert pod["containers"] == plain["containers"]


def test_the_longest_name_fits_kuberay():
    name = "a" * 40
    assert len(job_name(name, 999_999)) <= 47
    assert len(config_name(name, b"")) <= 63


def test_the_digest_tells_clusters_apart_and_equal_ones_not(build):
    def digest(**spec):
        return build(**spec)["RayCluster"]["metadata"]["annotations"]["llm360.ai/digest"]

    assert digest() == digest()
    assert len({digest(), digest(cluster={"head": {"cpus": 3}}), digest(cluster={"queue": "q"})}) == 3


def test_ray_version_is_that_of_the_lock():
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    assert next(package["version"] for package in packages if package["name"] == "ray") == builders.RAY_VERSION


def test_names_are_those_that_kubernetes_takes(build):
    for child in build().values():
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", child["metadata"]["name"])
