"""What a run's children are called. Names follow from the run's, so that a second one of a kind cannot exist."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llm360.canonical import sha256_digest
from llm360.spec.crd import RUN_LABEL


class Key(NamedTuple):
    """A run, wherever one is spoken of without its object."""

    namespace: str
    name: str

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Key:
        """The run that an object is."""
        return cls(run["metadata"]["namespace"], run["metadata"]["name"])


CONFIG_ANNOTATION = "llm360.ai/config"
"""On a preflight Job and a RayCluster: the ConfigMap that it was made from."""

DIGEST_ANNOTATION = "llm360.ai/digest"
"""On a RayCluster: the digest of the configuration that it was made from."""

EVALUATION_LABEL = "llm360.ai/evaluation"
"""On an evaluation's Job and its pods: the step of the checkpoint."""

CHECKPOINT_ANNOTATION = "llm360.ai/checkpoint"
"""On an evaluation's Job: the digest of the checkpoint's entry in the ledger."""

TASKS_ANNOTATION = "llm360.ai/tasks"
"""On an evaluation's Job: what it does, as labels of tasks and analyses, separated by commas."""

GENERATION_ANNOTATION = "llm360.ai/generation"
"""On an evaluation's Job: the run's generation that it was made for."""

RAY_CLUSTER_LABEL = "ray.io/cluster"
"""KubeRay's, on the pods of a cluster and in a job's selector."""

JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
"""Kubernetes', on the pods of a Job."""

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

CONFIG_PATH = "/etc/llm360/run.json"
ENTRYPOINT = f"llm360 run {CONFIG_PATH} --address auto"
"""The same for every run: nothing that a user writes reaches a shell."""

STATUS_PORT = 9360


def base_config_name(run: str) -> str:
    """The ConfigMap with the configuration that the run began with; its identity holds for good."""
    return f"{run}-config"


def config_name(run: str, document: bytes) -> str:
    """The ConfigMap of a later configuration with other operations; equal ones are the same object."""
    return f"{run}-config-{sha256_digest(document).removeprefix('sha256:')[:10]}"


def preflight_name(run: str) -> str:
    """The Job that looks at store and data."""
    return f"{run}-preflight"


def cluster_name(run: str) -> str:
    """The RayCluster. One name, so one cluster: the API server holds it for us."""
    return run


def job_name(run: str, number: int) -> str:
    """A RayJob; its number counts the run's submissions."""
    return f"{run}-{number}"


def evaluation_name(run: str, step: int, digest: str) -> str:
    """The Job that evaluates a checkpoint. One name, so one Job at a time; a checkpoint made again has another."""
    return f"{run}-eval-{step}-{digest.removeprefix('sha256:')[:6]}"


def status_url(namespace: str, run: str) -> str:
    """The driver's `/status`, behind the service that KubeRay makes for a head."""
    return f"http://{cluster_name(run)}-head-svc.{namespace}.svc:{STATUS_PORT}/status"


def owned(run: dict[str, Any], name: str, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """Metadata of a child: Kubernetes removes it with its run."""
    metadata = run["metadata"]
    return {
        "name": name,
        "namespace": metadata["namespace"],
        "labels": labels(metadata["name"]),
        **({"annotations": annotations} if annotations else {}),
        "ownerReferences": [
            {
                "apiVersion": run["apiVersion"],
                "kind": run["kind"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "controller": True,
            }
        ],
    }


def labels(run: str) -> dict[str, str]:
    """Labels of a child and of its pods."""
    return {"app.kubernetes.io/name": "llm360-run", "app.kubernetes.io/managed-by": "llm360-operator", RUN_LABEL: run}
