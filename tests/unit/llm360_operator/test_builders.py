"""Manifests: what KubeRay, Kueue and Kubernetes need in them, and what no user can put there."""

import json
import re
import tomllib
from pathlib import Path

import pytest

from llm360.canonical import sha256_digest
from llm360.spec import resolve
from llm360_operator import builders
from llm360_operator.names import config_name, evaluation_name, job_name

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
            "ConfigMap": builders.config_map(run, "amber-config", config.canonical()),
            "NetworkPolicy": builders.network_policy(run),
            "Job": builders.preflight_job(run, config, "amber-config", "operator:1"),
            "RayCluster": builders.ray_cluster(run, config, "amber-config", sha256_digest(config.canonical())),
            "RayJob": builders.ray_job(run, 3, "0-0"),
        }

    return build


@pytest.fixture
def build_evaluation(make_run):
    """The evaluation Job of a run with a changed specification."""

    def build(tasks=("arc:25",), **spec):
        run = make_run(**spec)
        config = resolve({key: run[key] for key in ("apiVersion", "kind", "metadata", "spec")})
        return builders.evaluation_job(run, config, config.spec.evaluation, 762, f"sha256:{'ab' * 32}", tasks)

    return build


def pods(children):
    cluster = children["RayCluster"]["spec"]
    head, (workers,) = cluster["headGroupSpec"]["template"], cluster["workerGroupSpecs"]
    return [head["spec"], workers["template"]["spec"], children["Job"]["spec"]["template"]["spec"]]


def test_an_evaluation_goes_with_its_run_restricted_and_with_its_credentials(build_evaluation):
    job = build_evaluation(storage={"uri": "s3://b/x", "serviceAccountName": "reader"})
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["uid"], owner["kind"]) == ("u-1", "LLM360Run")
    template = job["spec"]["template"]
    assert template["metadata"]["labels"].items() >= {"llm360.ai/run": "amber", "llm360.ai/evaluation": "762"}.items()
    pod = template["spec"]
    assert pod["serviceAccountName"] == "reader"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    lost = [t for t in pod["tolerations"] if t["key"].startswith("node.kubernetes.io/")]
    assert [t["tolerationSeconds"] for t in lost] == [30, 30]


def test_every_child_goes_with_its_run(build):
    for kind, child in build().items():
        assert child["kind"] == kind
        owner, *others = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["kind"], owner["controller"]) == ("u-1", "LLM360Run", not others)
        assert child["metadata"]["namespace"] == "research"
        assert child["metadata"]["labels"]["llm360.ai/run"] == "amber"


def test_a_job_is_controlled_by_its_cluster_which_kueue_has_admitted(build):
    _, cluster = build()["RayJob"]["metadata"]["ownerReferences"]
    assert cluster == {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "name": "amber",
        "uid": "0-0",
        "controller": True,
    }


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
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "165"} in head["env"], "recovery.stopSeconds, and some"


def test_pods_go_at_once_for_they_have_nothing_to_save(build):
    """Before, a head took 30 s, and so did all that waits for its place: a resume, a resized cluster, a namesake."""
    found = pods(build())
    assert {pod["terminationGracePeriodSeconds"] for pod in found} == {5}
    *ray, _preflight = (pod["containers"][0] for pod in found)
    for container in ray:
        assert {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "0"} in container["env"]


def test_pods_of_ray_are_looked_at_soon(build):
    """KubeRay's own probe begins 10 s after the start, and every start and every recovery waits for it."""
    head, worker, preflight = (pod["containers"][0] for pod in pods(build()))
    assert head["readinessProbe"] == worker["readinessProbe"]
    assert head["readinessProbe"]["initialDelaySeconds"] + head["readinessProbe"]["periodSeconds"] < 5
    assert "readinessProbe" not in preflight


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
    container = workers["template"]["spec"]["containers"][0]
    environment = {each["name"]: each["value"] for each in container["env"]}
    assert environment["RAY_gcs_rpc_server_reconnect_timeout_s"] == "15"
    assert environment["RAY_raylet_liveness_self_check_interval_ms"] == "5000"
    assert container["resources"]["limits"] == {"memory": "256Gi", "nvidia.com/gpu": "8"}
    (shm,) = workers["template"]["spec"]["volumes"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "131072Mi"}


def test_on_cpus_no_gpu_is_asked_for(build):
    (workers,) = build()["RayCluster"]["spec"]["workerGroupSpecs"]
    assert workers["rayStartParams"]["num-gpus"] == "0"
    assert "nvidia.com/gpu" not in json.dumps(workers)


def test_head_and_workers_have_the_priority_that_the_run_names(build):
    head, worker, preflight = pods(build(cluster={"priorityClass": "research"}))
    assert (head["priorityClassName"], worker["priorityClassName"]) == ("research", "research")
    assert "priorityClassName" not in preflight
    assert not any("priorityClassName" in pod for pod in pods(build()))


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


def test_an_evaluation_runs_on_its_own_pool_and_asks_for_what_is_stated(build_evaluation):
    tolerations = [{"key": "eval", "operator": "Exists"}]
    job = build_evaluation(
        evaluation={"gpus": 2, "cpus": 3, "memory": "8Gi", "nodeSelector": {"pool": "a"}, "tolerations": tolerations},
        cluster={"workers": {"nodeSelector": {"pool": "h100"}}, "queue": "gpus"},
    )
    pod = job["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"llm360.ai/eval": "true", "pool": "a"}
    assert pod["tolerations"][0] == {"key": "eval", "operator": "Exists"}
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "3", "memory": "8Gi", "nvidia.com/gpu": "2"},
        "limits": {"memory": "8Gi", "nvidia.com/gpu": "2"},
    }
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "kueue.x-k8s.io/queue-name" not in build_evaluation()["metadata"]["labels"]


@pytest.mark.parametrize(
    ("workers", "gpus"), [({"device": "cpu", "gpus": 0}, None), ({"device": "cuda", "gpus": 8}, "1")]
)
def test_an_evaluation_has_a_gpu_where_the_workers_have(build_evaluation, workers, gpus):
    (container,) = build_evaluation(cluster={"workers": workers})["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"].get("nvidia.com/gpu") == gpus


def test_an_evaluation_is_tried_again_but_for_bad_input_and_lost_nodes_do_not_count(build_evaluation):
    spec = build_evaluation(evaluation={"retries": 7})["spec"]
    assert spec["backoffLimit"] == 7
    lost, bad_input = spec["podFailurePolicy"]["rules"]
    assert lost == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert bad_input == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2]}}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # as Kubernetes asks for with such a policy


def test_an_evaluations_program_is_told_where_the_release_and_the_tasks_data_are(build_evaluation):
    job = build_evaluation(
        ["arc:25", "hella"],
        storage={"uri": "s3://b/amber", "endpoint": "http://minio:9000", "region": "eu", "secretRef": {"name": "s3"}},
        evaluation={"mirror": "s3://b/mirror"},
    )
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["command"] == [
        "llm360", "eval", "s3://b/amber", "--checkpoint", f"sha256:{'ab' * 32}", "--tasks", "arc:25,hella",
        "--mirror=s3://b/mirror", "--uid", "$(JOB_UID)", "-o", "json",
    ]  # fmt: skip
    assert container["envFrom"] == [{"secretRef": {"name": "s3"}}]
    uid, log, endpoint, region = container["env"]
    assert uid["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/controller-uid']"
    assert log == {"name": "LLM360_TERMINATION_LOG", "value": container["terminationMessagePath"]}
    assert (endpoint["value"], region["value"]) == ("http://minio:9000", "eu")
    assert job["metadata"]["annotations"]["llm360.ai/tasks"] == "arc:25,hella"


def test_an_evaluation_reaches_the_store_as_the_training_does(build_evaluation):
    (container,) = build_evaluation(storage={"uri": "s3://b/amber", "pathStyle": False})["spec"]["template"]["spec"][
        "containers"
    ]
    assert {"name": "LLM360_S3_PATH_STYLE", "value": "false"} in container["env"]
    (usual,) = build_evaluation(storage={"uri": "s3://b/amber"})["spec"]["template"]["spec"]["containers"]
    assert [entry["name"] for entry in usual["env"]] == ["JOB_UID", "LLM360_TERMINATION_LOG"]


def test_the_longest_name_of_an_evaluation_is_one_that_kubernetes_takes():
    assert len(evaluation_name("a" * 40, 10**9, f"sha256:{'ab' * 32}")) == 63
