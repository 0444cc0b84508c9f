"""Manifests of a run's children: configuration in, Kubernetes object out. No clock, no chance, no API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llm360.spec import ResolvedRun
from llm360.spec.base import quantity_bytes
from llm360.spec.cluster import Pods
from llm360.spec.crd import RUN_LABEL
from llm360.spec.evaluation import Evaluation
from llm360_operator.names import (
    CHECKPOINT_ANNOTATION,
    CONFIG_ANNOTATION,
    CONFIG_PATH,
    DIGEST_ANNOTATION,
    ENTRYPOINT,
    EVALUATION_LABEL,
    GENERATION_ANNOTATION,
    QUEUE_LABEL,
    RAY_CLUSTER_LABEL,
    STATUS_PORT,
    TASKS_ANNOTATION,
    cluster_name,
    evaluation_name,
    job_name,
    labels,
    owned,
    preflight_name,
)

Manifest = dict[str, Any]

RAY_VERSION = "2.60.0"
"""Of the trainer's image (uv.lock). KubeRay reads from it which features it may use; token authentication is one."""

DASHBOARD_PORT = 8265
METRICS_PORT = 8080
"""Of Ray, on every pod of a cluster."""

NODE_LOST_SECONDS = 30
"""How long a pod stays bound to a node that is lost; Kubernetes' own default is 300."""

HEAD_GONE_SECONDS = 15
"""How long a worker waits for a head that does not answer before it begins anew; Ray's own default is 60."""

HEAD_NEW_SECONDS = 5
"""How often a worker asks the head whether it knows it: a new head, which answers before `HEAD_GONE_SECONDS` are over,
does not. Ray's own default is 60; meanwhile the worker would look ready."""

READINESS: Manifest = {
    "httpGet": {"path": "/api/healthz", "port": 52365},  # of Ray's agent on every pod
    "initialDelaySeconds": 2,
    "periodSeconds": 2,
    "timeoutSeconds": 5,
    "failureThreshold": 25,
}
"""As KubeRay's own, which looks 10 s after a pod's start at the earliest and then every 5 s: head and workers are there
after some 5 s, and each start and each recovery waits for them."""

GRACE_SECONDS = 5
"""How long a pod may take to go; Kubernetes' own default is 30. It has nothing to save: the driver was stopped before,
or will go back to a checkpoint, and an evaluation is begun again. So long is waited for a pod whose node does not
answer, and for a program that does not hear of SIGTERM, being a container's first."""

WITHOUT_DRAINING = {"name": "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "value": "0"}
"""Ray that is asked to go waits up to 30 s for Ray Serve to lead requests elsewhere; there is no Ray Serve here."""

LAST_WORDS_SECONDS = 45
"""How long a driver that is asked to stop may take for its last records, beside the time for a checkpoint."""

CONTAINER_OUTPUT = "/proc/1/fd/1"
"""Standard output of a container as its processes see it: what the driver says there, `kubectl logs` shows."""

TERMINATION_LOG = "/dev/termination-log"
"""What a container writes there is its last message: Kubernetes keeps 4,096 bytes of it."""

JOB_UID_LABEL = "batch.kubernetes.io/controller-uid"
"""Kubernetes', on the pods of a Job: its uid."""

ANALYSIS = "analysis/"
"""What the label of an analysis begins with."""

BAD_INPUT = 2
"""Exit code after which nothing is tried again."""


def config_map(run: Manifest, name: str, document: bytes) -> Manifest:
    """The resolved run as it is stored, immutable."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owned(run, name),
        "immutable": True,
        "data": {"run.json": document.decode()},
    }


def network_policy(run: Manifest) -> Manifest:
    """Who may reach a run's pods: each other; KubeRay the dashboard; the operator and Prometheus what tells numbers."""
    name = run["metadata"]["name"]

    def from_everywhere(label: str, value: str, *ports: int) -> Manifest:
        pods = {"namespaceSelector": {}, "podSelector": {"matchLabels": {f"app.kubernetes.io/{label}": value}}}
        return {"from": [pods], "ports": [{"port": port} for port in ports]}

    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned(run, name),
        "spec": {
            "podSelector": {"matchLabels": {RUN_LABEL: name}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [{"podSelector": {"matchLabels": {RUN_LABEL: name}}}]},
                from_everywhere("component", "kuberay-operator", DASHBOARD_PORT),
                from_everywhere("name", "llm360-operator", STATUS_PORT),
                from_everywhere("name", "prometheus", STATUS_PORT, METRICS_PORT),
            ],
        },
    }


def preflight_job(run: Manifest, config: ResolvedRun, config_name: str, image: str) -> Manifest:
    """A pod that looks at store, data and tokenizer with the run's credentials; its answer is its last message.

    Args:
        run: The LLM360Run.
        config: Its configuration.
        config_name: The ConfigMap that holds it.
        image: The operator's own image.
    """
    name = run["metadata"]["name"]
    head = config.spec.cluster.head
    container = {
        "name": "preflight",
        "image": image,
        "command": ["llm360", "preflight", CONFIG_PATH, "--termination-message", TERMINATION_LOG],
        "envFrom": _credentials(config),
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": [_CONFIG_MOUNT],
    }
    pod = {
        "restartPolicy": "Never",
        **_basis(config),
        "nodeSelector": dict(head.node_selector),
        "tolerations": _tolerations(head),
        "containers": [container],
        "volumes": [_config_volume(config_name)],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": owned(run, preflight_name(name), {CONFIG_ANNOTATION: config_name}),
        "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": labels(name)}, "spec": pod}},
    }


def evaluation_job(
    run: Manifest,
    config: ResolvedRun,
    evaluation: Evaluation,
    step: int,
    digest: str,
    asked: Sequence[str],
    *,
    is_done: bool = False,
) -> Manifest:
    """A pod that evaluates one checkpoint on the evaluation pool; its scores are its last message.

    Args:
        run: The LLM360Run.
        config: Its configuration.
        evaluation: What the object says of evaluations now.
        step: Of the checkpoint.
        digest: Of the checkpoint's entry in the ledger.
        asked: Labels of the tasks, or of the one analysis, that it does.
        is_done: Whether all of that is done, so that nothing is computed: it only tells of later checkpoints, and the
            annotation names no task.
    """
    name = run["metadata"]["name"]
    gpus = evaluation.gpus if evaluation.gpus is not None else int(config.spec.cluster.workers.device == "cuda")
    limits = {"memory": evaluation.memory} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
    container = {
        "name": "evaluation",
        "image": config.spec.cluster.image,
        "command": evaluation_command(config.store, digest, asked, evaluation.mirror),
        "env": [
            {"name": "JOB_UID", "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{JOB_UID_LABEL}']"}}},
            {"name": "LLM360_TERMINATION_LOG", "value": TERMINATION_LOG},
            *_store_environment(config),
        ],
        "envFrom": _credentials(config),
        "resources": {"requests": {"cpu": f"{evaluation.cpus:g}"} | limits, "limits": limits},
        "securityContext": _CONTAINER_SECURITY,
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod = {
        "restartPolicy": "Never",  # each try is a pod of its own, so that one on a lost node is replaced, too
        **_basis(config),
        "nodeSelector": dict(evaluation.node_selector),
        "tolerations": _tolerations(evaluation),
        "containers": [container],
    }
    metadata = owned(
        run,
        evaluation_name(name, step, digest),
        {
            CHECKPOINT_ANNOTATION: digest,
            TASKS_ANNOTATION: "" if is_done else ",".join(asked),
            GENERATION_ANNOTATION: str(run["metadata"]["generation"]),
        },
    )
    own_labels = {EVALUATION_LABEL: str(step)}
    metadata["labels"] |= own_labels
    if config.spec.cluster.queue is not None:
        metadata["labels"][QUEUE_LABEL] = config.spec.cluster.queue
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "backoffLimit": evaluation.retries,
            "podFailurePolicy": {
                "rules": [
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
                    {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [BAD_INPUT]}},
                ]
            },
            "template": {"metadata": {"labels": labels(name) | own_labels}, "spec": pod},
        },
    }


def evaluation_command(uri: str, digest: str, asked: Sequence[str], mirror: str | None) -> list[str]:
    """The program that does the tasks, or the analysis; Kubernetes puts in the Job's uid, and nothing else."""
    if asked[0].startswith(ANALYSIS):
        said = [asked[0].removeprefix(ANALYSIS), uri, "--checkpoints", digest]
        return ["llm360", "analyze", *(word.replace("$", "$$") for word in said), "-o", "json"]
    said = [uri, "--checkpoint", digest, "--tasks", ",".join(asked), *([f"--mirror={mirror}"] if mirror else [])]
    return ["llm360", "eval", *(word.replace("$", "$$") for word in said), "--uid", "$(JOB_UID)", "-o", "json"]


def _store_environment(config: ResolvedRun) -> list[Manifest]:
    """How to reach the store, for commands that are given its address alone."""
    storage = config.spec.storage
    found = {
        "AWS_ENDPOINT_URL": storage.endpoint,
        "AWS_DEFAULT_REGION": storage.region,
        "LLM360_S3_PATH_STYLE": None if storage.path_style else "false",
    }
    return [{"name": name, "value": value.replace("$", "$$")} for name, value in found.items() if value is not None]


def ray_cluster(run: Manifest, config: ResolvedRun, config_name: str, digest: str) -> Manifest:
    """Head and workers. With a queue it starts suspended: from then on Kueue decides when it runs and where.

    Args:
        run: The LLM360Run.
        config: Its configuration.
        config_name: The ConfigMap that holds it.
        digest: Of that ConfigMap's content. A cluster is told apart by what it was made from, not how, so that another
            operator replaces none.
    """
    name = run["metadata"]["name"]
    cluster = config.spec.cluster
    manifest: Manifest = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": owned(run, cluster_name(name)),
        "spec": {
            "rayVersion": RAY_VERSION,
            "authOptions": {"mode": "token"},
            "headGroupSpec": {
                "serviceType": "ClusterIP",
                # No rank is ever placed on the head: it has neither CPUs nor GPUs to give.
                "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", "num-gpus": "0"},  # noqa: S104
                "template": _head(name, config, config_name),
            },
            "workerGroupSpecs": [
                {
                    "groupName": "workers",
                    "replicas": cluster.workers.replicas,
                    "minReplicas": cluster.workers.replicas,
                    "maxReplicas": cluster.workers.replicas,
                    "rayStartParams": {
                        "num-cpus": str(max(1, int(cluster.workers.cpus))),
                        "num-gpus": str(cluster.workers.gpus),
                    },
                    "template": _worker(name, config),
                }
            ],
        },
    }
    if cluster.queue is not None:
        manifest["spec"]["suspend"] = True
        manifest["metadata"]["labels"][QUEUE_LABEL] = cluster.queue
    manifest["metadata"]["annotations"] = {
        CONFIG_ANNOTATION: config_name,
        DIGEST_ANNOTATION: digest,
    }
    return manifest


def ray_job(run: Manifest, number: int, cluster_uid: str) -> Manifest:
    """One submission of the driver to the run's cluster. KubeRay submits it and polls it with its own token.

    Its controller is the cluster, so that Kueue sees that its pods are admitted already: it would put a job without a
    queue into the namespace's default one, suspended, and KubeRay takes no such job for a cluster that is there. The
    run owns it too, so that it outlives the cluster.

    Args:
        run: The LLM360Run.
        number: Of the submission.
        cluster_uid: Of the RayCluster.
    """
    name = run["metadata"]["name"]
    metadata = owned(run, job_name(name, number))
    metadata["ownerReferences"][0]["controller"] = False
    metadata["ownerReferences"].append(
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayCluster",
            "name": cluster_name(name),
            "uid": cluster_uid,
            "controller": True,
        }
    )
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata,
        "spec": {
            "entrypoint": ENTRYPOINT,
            "jobId": job_name(name, number),
            "submissionMode": "HTTPMode",
            "clusterSelector": {RAY_CLUSTER_LABEL: cluster_name(name)},
            "shutdownAfterJobFinishes": False,
        },
    }


def stop_seconds(config: ResolvedRun) -> int:
    """How long a run's driver that is asked to stop may take, after which Ray ends it."""
    return config.spec.recovery.stop_seconds + LAST_WORDS_SECONDS


def _head(name: str, config: ResolvedRun, config_name: str) -> Manifest:
    head = config.spec.cluster.head
    ports = {"gcs-server": 6379, "client": 10001, "dashboard": DASHBOARD_PORT, "metrics": METRICS_PORT}
    ports["status"] = STATUS_PORT  # where one port is named, KubeRay adds none of its own
    container = _ray_container("ray-head", config, head, ports)
    container["env"] = [
        WITHOUT_DRAINING,
        {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": str(stop_seconds(config))},
        {"name": "LLM360_LOG_COPY", "value": CONTAINER_OUTPUT},
    ]
    container["volumeMounts"].append(_CONFIG_MOUNT)
    pod = _ray_pod(name, config, head, container, [_config_volume(config_name)])
    pod["metadata"]["annotations"] = _scraped(STATUS_PORT)
    return pod


def _worker(name: str, config: ResolvedRun) -> Manifest:
    workers = config.spec.cluster.workers
    container = _ray_container("ray-worker", config, workers, {"metrics": METRICS_PORT})
    if workers.gpus:
        gpus = {"nvidia.com/gpu": str(workers.gpus)}
        container["resources"]["requests"] |= gpus
        container["resources"]["limits"] |= gpus
    container["env"] = [
        WITHOUT_DRAINING,
        {"name": "RAY_gcs_rpc_server_reconnect_timeout_s", "value": str(HEAD_GONE_SECONDS)},
        {"name": "RAY_raylet_liveness_self_check_interval_ms", "value": str(1000 * HEAD_NEW_SECONDS)},
    ]
    pod = _ray_pod(name, config, workers, container, [])
    pod["metadata"]["annotations"] = _scraped(METRICS_PORT)
    return pod


def _scraped(port: int) -> dict[str, str]:
    """For a Prometheus that finds pods, and one port of each, by these; the chart's PodMonitor names all ports."""
    return {"prometheus.io/scrape": "true", "prometheus.io/port": str(port)}


def _ray_container(name: str, config: ResolvedRun, pods: Pods, ports: dict[str, int]) -> Manifest:
    return {
        "name": name,
        "image": config.spec.cluster.image,
        "ports": [{"name": port, "containerPort": number} for port, number in ports.items()],
        "envFrom": _credentials(config),
        "resources": {
            # No limit on CPUs: a rank that is throttled makes all the others wait.
            "requests": {"cpu": f"{pods.cpus:g}", "memory": pods.memory},
            "limits": {"memory": pods.memory},
        },
        "readinessProbe": READINESS,
        "securityContext": _CONTAINER_SECURITY,
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],  # noqa: S108 - the pod's own
    }


def _ray_pod(name: str, config: ResolvedRun, pods: Pods, container: Manifest, volumes: list[Manifest]) -> Manifest:
    # Ray's object store and NCCL share memory between processes; a container's default of 64 MiB is far too little.
    shm = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{quantity_bytes(pods.memory) // 2**21}Mi"}}
    priority = config.spec.cluster.priority_class
    return {
        "metadata": {"labels": labels(name)},
        "spec": {
            **_basis(config),
            **({"priorityClassName": priority} if priority else {}),
            "nodeSelector": dict(pods.node_selector),
            "tolerations": _tolerations(pods),
            "containers": [container],
            "volumes": [shm, *volumes],
        },
    }


def _basis(config: ResolvedRun) -> Manifest:
    """What all pods have: they are never root, have no access to the Kubernetes API, and go soon."""
    account = config.spec.storage.service_account_name
    return {
        **({"serviceAccountName": account} if account else {}),
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    }


def _credentials(config: ResolvedRun) -> list[Manifest]:
    """The store's credentials as environment variables; the operator never reads the Secret itself."""
    secret = config.spec.storage.secret_ref
    return [{"secretRef": {"name": secret.name}}] if secret else []


def _tolerations(pods: Pods) -> list[Manifest]:
    lost = [
        {
            "key": f"node.kubernetes.io/{taint}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": NODE_LOST_SECONDS,
        }
        for taint in ("not-ready", "unreachable")
    ]
    return [t.model_dump(mode="json", by_alias=True, exclude_none=True) for t in pods.tolerations] + lost


_CONTAINER_SECURITY: Manifest = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}

# One file, not the folder: the image's own /etc/llm360/build.json lies beside it.
_CONFIG_MOUNT: Manifest = {"name": "config", "mountPath": CONFIG_PATH, "subPath": "run.json", "readOnly": True}


def _config_volume(config_name: str) -> Manifest:
    return {"name": "config", "configMap": {"name": config_name}}
