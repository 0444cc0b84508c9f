"""What is seen of a run's children, as small values: the only form in which `reconcile` knows the world.

Each is read from a Kubernetes object by a pure function. KubeRay's `status.state` is not looked at: once "ready" it
stays so, whatever dies.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from llm360_operator.names import (
    CHECKPOINT_ANNOTATION,
    CONFIG_ANNOTATION,
    DIGEST_ANNOTATION,
    EVALUATION_LABEL,
    GENERATION_ANNOTATION,
    JOB_NAME_LABEL,
    QUEUE_LABEL,
    TASKS_ANNOTATION,
)

Object = Mapping[str, Any]

LOST_SECONDS = 10.0
"""How long beyond its grace a deleted pod may take to go. One that is still there is on a node that does not answer."""


@dataclass(frozen=True)
class Trouble:
    """Why pods cannot run, in words for a person."""

    reason: str
    message: str


@dataclass(frozen=True)
class Preflight:
    """The preflight Job.

    `answer` is what its pod said last: {reason, message, prepares}; `waits_in` the queue that has no place for it yet.
    """

    config: str
    state: Literal["Running", "Passed", "Failed"]
    finished: datetime | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)
    is_deleting: bool = False
    waits_in: str = ""


@dataclass(frozen=True)
class Cluster:
    """The RayCluster. `queue` is the one that it is in: the run's, or the namespace's default one."""

    digest: str
    uid: str = ""
    queue: str = ""
    is_suspended: bool = False
    is_head_ready: bool = False
    ready_workers: int = 0
    created: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    failure: str = ""
    is_deleting: bool = False


@dataclass(frozen=True)
class Job:
    """A RayJob.

    Attributes:
        number: Of the submission.
        state: Active until Ray, or KubeRay, has said how it ended.
        exit_code: Of the driver, where it is known.
        reason: The driver's last word, or KubeRay's.
        message: The driver's last sentence, or what there is instead.
        ended: When it was over.
        is_deleting: Whether it is about to go.
    """

    number: int
    state: Literal["Active", "Succeeded", "Failed"]
    exit_code: int | None = None
    reason: str = ""
    message: str = ""
    ended: datetime | None = None
    is_deleting: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The Job of a checkpoint's evaluation.

    Attributes:
        name: Its own.
        step: Of the checkpoint.
        digest: Of the checkpoint's entry in the ledger.
        labels: Tasks and analyses that it does.
        generation: Of the run's specification that it was made for.
        state: Active until Kubernetes has said how it ended.
        answer: What its newest pod said last: {reason, message, scores}.
        reason: Of a bad end: the answer's, or Kubernetes'.
        message: The same as a sentence.
        is_lost: Whether its pod is on a node that does not answer. Kubernetes makes no other pod for a Job that tells
            exit codes apart before that node has said how this one ended.
        is_deleting: Whether it is about to go.
        is_losing_pod: Whether a pod of it is about to go; where that pod's node does not answer it will be lost.
    """

    name: str
    step: int
    digest: str
    labels: frozenset[str]
    generation: int
    state: Literal["Active", "Succeeded", "Failed"] = "Active"
    answer: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    message: str = ""
    is_lost: bool = False
    is_deleting: bool = False
    is_losing_pod: bool = False


@dataclass(frozen=True)
class Seen:
    """Everything that a decision stands on.

    Attributes:
        now: The time.
        configs: Contents of the run's ConfigMaps by name.
        preflight: The Job, if there is one.
        cluster: The RayCluster, if there is one.
        jobs: RayJobs by rising number.
        troubles: Why pods cannot run, most telling first.
        lost_pods: Names of deleted pods whose node does not say that they are gone.
        driver: The driver's `/status`; None where it did not answer.
        foreign: Names of objects that are in the way: they bear a child's name and belong to somebody else.
        is_kuberay_missing: Whether the API server knows no RayCluster.
        evaluations: Jobs of evaluations, by name.
        evaluation_troubles: Why their pods cannot run.
        evaluation_slots: How many more the operator's bound of all runs allows now; None: there is no bound.
    """

    now: datetime
    configs: Mapping[str, bytes] = field(default_factory=dict)
    preflight: Preflight | None = None
    cluster: Cluster | None = None
    jobs: tuple[Job, ...] = ()
    troubles: tuple[Trouble, ...] = ()
    lost_pods: tuple[str, ...] = ()
    driver: Mapping[str, Any] | None = None
    foreign: tuple[str, ...] = ()
    is_kuberay_missing: bool = False
    evaluations: tuple[Evaluation, ...] = ()
    evaluation_troubles: tuple[Trouble, ...] = ()
    evaluation_slots: int | None = None


def read_time(text: str | None) -> datetime | None:
    """An instant as Kubernetes writes it."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None


def write_time(time: datetime) -> str:
    """An instant as Kubernetes writes it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def is_deleting(child: Object) -> bool:
    """Whether an object is on its way out."""
    return "deletionTimestamp" in child["metadata"]


def _condition(child: Object, kind: str) -> Object:
    conditions = child.get("status", {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})


def read_preflight(job: Object, pods: Iterable[Object]) -> Preflight:
    """The preflight Job, with the last message of its pod."""
    state: Literal["Running", "Passed", "Failed"] = "Running"
    if _condition(job, "Complete").get("status") == "True":
        state = "Passed"
    elif _condition(job, "Failed").get("status") == "True":
        state = "Failed"
    ended = _condition(job, "Complete") or _condition(job, "Failed")
    return Preflight(
        config=job["metadata"].get("annotations", {}).get(CONFIG_ANNOTATION, ""),
        state=state,
        finished=read_time(ended.get("lastTransitionTime")) if state != "Running" else None,
        answer=next((answer for pod in pods if (answer := _last_message(pod))), {}),
        is_deleting=is_deleting(job),
        waits_in=_queue(job) if job["spec"].get("suspend") else "",
    )


def _queue(child: Object) -> str:
    return str(child["metadata"].get("labels", {}).get(QUEUE_LABEL, ""))


def _last_message(pod: Object) -> Mapping[str, Any]:
    for terminated in _ends(pod):
        answer = _json_object(terminated.get("message", ""))
        if answer:
            return answer
    return {}


def _ends(pod: Object) -> Iterable[Object]:
    """How the pod's containers ended, as far as they have."""
    for status in pod.get("status", {}).get("containerStatuses") or []:
        if terminated := status.get("state", {}).get("terminated"):
            yield terminated


def _last_lines(ends: Iterable[Object]) -> str:
    """The end of the newest log there is, of a program that left no answer."""
    logs = (str(end.get("message") or "").split("\n") for end in ends)
    return next((text for lines in logs if (text := " ".join(filter(None, lines[-4:])))), "")


def is_ended(job: Object) -> bool:
    """Whether a Job has ended, well or not."""
    return any(_condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def read_evaluation(job: Object, pods: Iterable[Object], lost: Collection[str] = ()) -> Evaluation:
    """The Job of an evaluation, with the last message of its newest pod that has one.

    Args:
        job: The Job.
        pods: Of all evaluations of the run, as far as they were looked at.
        lost: Names of pods whose node does not say that they are gone.
    """
    metadata = job["metadata"]
    annotations = metadata.get("annotations") or {}
    name = metadata["name"]
    own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(JOB_NAME_LABEL) == name]
    own.sort(key=lambda pod: str(pod["metadata"].get("creationTimestamp")), reverse=True)
    failure = _condition(job, "Failed")
    state: Literal["Active", "Succeeded", "Failed"] = "Active"
    if _condition(job, "Complete").get("status") == "True":
        state = "Succeeded"
    elif failure.get("status") == "True":
        state = "Failed"
    answer: Mapping[str, Any] = next((said for pod in own if (said := _last_message(pod))), {})
    ends = [end for pod in own for end in _ends(pod)]
    killed = next((str(end["reason"]) for end in ends if end.get("reason") == "OOMKilled"), "")
    return Evaluation(
        name=name,
        step=int(metadata["labels"][EVALUATION_LABEL]),
        digest=annotations.get(CHECKPOINT_ANNOTATION, ""),
        labels=frozenset(filter(None, annotations.get(TASKS_ANNOTATION, "").split(","))),
        generation=int(annotations.get(GENERATION_ANNOTATION, 0)),
        state=state,
        answer=answer,
        reason=str(answer.get("reason") or killed or failure.get("reason") or ""),
        message=str(answer.get("message") or _last_lines(ends) or failure.get("message") or ""),
        is_lost=any(pod["metadata"]["name"] in lost for pod in own),
        is_deleting=is_deleting(job),
        is_losing_pod=any(map(is_deleting, own)),
    )


def read_cluster(cluster: Object) -> Cluster:
    """The RayCluster."""
    metadata, status = cluster["metadata"], cluster.get("status") or {}
    failure = _condition(cluster, "ReplicaFailure")
    created = read_time(metadata["creationTimestamp"])
    assert created is not None
    return Cluster(
        digest=metadata.get("annotations", {}).get(DIGEST_ANNOTATION, ""),
        uid=metadata["uid"],
        queue=_queue(cluster),
        is_suspended=bool(cluster["spec"].get("suspend")),
        is_head_ready=_condition(cluster, "HeadPodReady").get("status") == "True",
        ready_workers=status.get("readyWorkerReplicas") or 0,
        created=created,
        failure=failure.get("message", "") if failure.get("status") == "True" else "",
        is_deleting=is_deleting(cluster),
    )


def read_job(job: Object) -> Job:
    """A RayJob; of one that failed the driver's exit code and last word."""
    status = job.get("status") or {}
    deployment, message = status.get("jobDeploymentStatus"), status.get("message") or ""
    number = int(job["metadata"]["name"].rpartition("-")[2])
    ended = read_time(status.get("endTime")) or read_time(job["metadata"]["creationTimestamp"])
    if status.get("jobStatus") == "SUCCEEDED":
        return Job(number, "Succeeded", 0, ended=ended, is_deleting=is_deleting(job))
    if deployment not in ("Failed", "ValidationFailed", "Complete"):
        return Job(number, "Active", is_deleting=is_deleting(job))
    exit_code = re.search(r"exit code (-?\d+)", message)
    word = last_word(message)
    otherwise = "JobStopped" if status.get("jobStatus") == "STOPPED" else "JobFailed"
    return Job(
        number,
        "Failed",
        int(exit_code.group(1)) if exit_code else None,
        str(word.get("reason") or status.get("reason") or otherwise),
        str(word.get("message") or message.strip()[-1000:] or "it ended without a word"),
        ended,
        is_deleting(job),
    )


def last_word(log: str) -> Mapping[str, Any]:
    """The last line of a log that is JSON with a reason and a message, as a driver that ends badly leaves it."""
    for line in reversed(log.splitlines()):
        found = _json_object(line)
        if "reason" in found and "message" in found:
            return found
    return {}


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_lost_pods(pods: Iterable[Object], now: datetime) -> tuple[str, ...]:
    """Names of the pods that should be gone, but whose node does not say so.

    Their deletionTimestamp is when their grace ends. By the clock alone, which may differ from the API server's, pods
    of a node that is well would be lost, too: of a node that does not answer Kubernetes says that its pods are not
    ready, and that it is for this that they are deleted.
    """
    limit = now - timedelta(seconds=LOST_SECONDS)
    ends = ((pod, read_time(pod["metadata"].get("deletionTimestamp"))) for pod in pods)
    return tuple(pod["metadata"]["name"] for pod, end in ends if end is not None and end < limit and _is_cut_off(pod))


def _is_cut_off(pod: Object) -> bool:
    """Whether a pod's node may be one that does not answer, for all that Kubernetes says of the pod."""
    is_ready = _condition(pod, "Ready").get("status") == "True"
    target = _condition(pod, "DisruptionTarget")
    return not is_ready or (target.get("status"), target.get("reason")) == ("True", "DeletionByTaintManager")


_WAITING = {
    "ErrImagePull": "ImagePullFailed",
    "ImagePullBackOff": "ImagePullFailed",
    "InvalidImageName": "ImagePullFailed",
    "ErrImageNeverPull": "ImagePullFailed",
    "CreateContainerConfigError": "SecretMissing",
    "CrashLoopBackOff": "PodCrashes",
    "CreateContainerError": "PodCrashes",
    "RunContainerError": "PodCrashes",
}
"""Why a container waits, and our word for it."""


def read_troubles(pods: Iterable[Object]) -> tuple[Trouble, ...]:
    """Why pods cannot run: once per cause, with the first pod that has it."""
    found: dict[str, Trouble] = {}
    for pod in pods:
        if not is_deleting(pod):
            for trouble in _troubles(pod):
                found.setdefault(trouble.reason, trouble)
    return tuple(sorted(found.values(), key=lambda trouble: trouble.reason == "Unschedulable"))


def _troubles(pod: Object) -> Iterable[Trouble]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("reason") == "Unschedulable":
        yield Trouble("Unschedulable", f"no node can take pod {name}: {scheduled.get('message', '')}")
    for container in (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or []):
        waiting = container.get("state", {}).get("waiting") or {}
        reason = _WAITING.get(waiting.get("reason", ""))
        if reason:
            last = container.get("lastState", {}).get("terminated") or {}
            killed = " (its last end: out of memory)" if last.get("reason") == "OOMKilled" else ""
            yield Trouble(reason, f"pod {name}: {waiting.get('message') or waiting['reason']}{killed}")
