"""Kubernetes objects as they come, and what is made of them."""

from datetime import UTC, datetime

import pytest

from llm360_operator.seen import (
    Evaluation,
    last_word,
    read_cluster,
    read_evaluation,
    read_job,
    read_lost_pods,
    read_preflight,
    read_time,
    read_troubles,
    write_time,
)

CREATED = "2026-11-22T12:00:00Z"

RAY_MESSAGE = """\
Job entrypoint command failed with exit code 2, last available logs (truncated to 20,000 chars):
step 12
llm360: spec.training.sequenceLength is 300
{"reason": "RowLengthDiffers", "message": "spec.training.sequenceLength is 300"}
"""


def rayjob(**status):
    return {"metadata": {"name": "amber-run-12", "creationTimestamp": CREATED}, "status": status}


def test_times_survive_both_ways():
    assert read_time(CREATED) == datetime(2026, 11, 22, 12, tzinfo=UTC)
    assert write_time(read_time(CREATED)) == CREATED
    assert read_time(None) is None


def test_a_job_that_failed_says_the_drivers_last_word():
    job = read_job(
        rayjob(
            jobStatus="FAILED", jobDeploymentStatus="Failed", reason="AppFailed", message=RAY_MESSAGE, endTime=CREATED
        )
    )
    assert (job.number, job.state, job.exit_code) == (12, "Failed", 2)
    assert (job.reason, job.message) == ("RowLengthDiffers", "spec.training.sequenceLength is 300")
    assert job.ended == read_time(CREATED)


@pytest.mark.parametrize(
    ("status", "state", "reason"),
    [
        ({}, "Active", ""),
        ({"jobDeploymentStatus": "Initializing"}, "Active", ""),
        ({"jobStatus": "RUNNING", "jobDeploymentStatus": "Running"}, "Active", ""),
        ({"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete"}, "Succeeded", ""),
        ({"jobStatus": "STOPPED", "jobDeploymentStatus": "Complete"}, "Failed", "JobStopped"),
        ({"jobDeploymentStatus": "ValidationFailed", "reason": "ValidationFailed"}, "Failed", "ValidationFailed"),
        ({"jobStatus": "FAILED", "jobDeploymentStatus": "Failed", "message": "gone"}, "Failed", "JobFailed"),
    ],
)
def test_states_of_a_job(status, state, reason):
    job = read_job(rayjob(**status))
    assert (job.state, job.reason) == (state, reason)
    assert job.state != "Failed" or job.message


@pytest.mark.parametrize("log", ["", "no json", "{", '{"reason": "A"}', '["reason", "message"]', "null\n{}"])
def test_a_log_without_a_last_word(log):
    assert last_word(log) == {}


def test_a_cluster_is_judged_by_its_pods_not_by_its_state():
    cluster = {
        "metadata": {
            "name": "amber",
            "uid": "c-1",
            "creationTimestamp": CREATED,
            "annotations": {"llm360.ai/digest": "sha256:1"},
            "labels": {"kueue.x-k8s.io/queue-name": "default"},
        },
        "spec": {"suspend": True},
        "status": {
            "state": "ready",
            "readyWorkerReplicas": 1,
            "conditions": [
                {"type": "HeadPodReady", "status": "False"},
                {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"},
            ],
        },
    }
    seen = read_cluster(cluster)
    assert (seen.is_head_ready, seen.ready_workers, seen.is_suspended) == (False, 1, True)
    assert (seen.digest, seen.failure) == ("sha256:1", "exceeded quota")
    assert (seen.uid, seen.queue) == ("c-1", "default")
    going = read_cluster(
        {"metadata": {"uid": "c-2", "creationTimestamp": CREATED, "deletionTimestamp": CREATED}, "spec": {}}
    )
    assert (going.is_deleting, going.queue) == (True, "")


def test_a_preflight_answers_by_its_pods_last_message():
    job = {
        "metadata": {"annotations": {"llm360.ai/config": "amber-config"}},
        "spec": {"suspend": False},
        "status": {"conditions": [{"type": "Failed", "status": "True", "lastTransitionTime": CREATED}]},
    }
    message = '{"reason": "BucketMissing", "message": "no bucket b", "prepares": []}'
    pod = {"status": {"containerStatuses": [{"state": {"terminated": {"message": message}}}]}}
    seen = read_preflight(job, [{"status": {}}, pod])
    assert (seen.state, seen.config, seen.finished) == ("Failed", "amber-config", read_time(CREATED))
    assert seen.answer["reason"] == "BucketMissing"
    assert read_preflight(job, []).answer == {}
    assert read_preflight({"metadata": {}, "spec": {}}, []).state == "Running"
    queued = {"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "default"}}, "spec": {"suspend": True}}
    assert read_preflight(queued, []).waits_in == "default"


def pod(name="x", waiting=None, conditions=(), **container):
    state = {"waiting": {"reason": waiting, "message": f"about {waiting}"}} if waiting else {"running": {}}
    return {
        "metadata": {"name": name},
        "status": {"conditions": list(conditions), "containerStatuses": [{"state": state} | container]},
    }


@pytest.mark.parametrize(
    ("waiting", "reason"),
    [
        ("ErrImagePull", "ImagePullFailed"),
        ("ImagePullBackOff", "ImagePullFailed"),
        ("CreateContainerConfigError", "SecretMissing"),
        ("CrashLoopBackOff", "PodCrashes"),
    ],
)
def test_why_a_container_waits(waiting, reason):
    (trouble,) = read_troubles([pod("x", waiting), pod("y", waiting)])
    assert (trouble.reason, trouble.message) == (reason, f"pod x: about {waiting}")


def test_pods_that_are_well_or_going_give_no_trouble():
    going = pod(waiting="ErrImagePull")
    going["metadata"]["deletionTimestamp"] = CREATED
    assert read_troubles([pod(), pod(waiting="ContainerCreating"), going, {"metadata": {"name": "new"}}]) == ()


def test_a_deleted_pod_whose_grace_is_long_over_is_lost():
    names = {"here": None, "going": "2026-11-22T12:00:25Z", "lost": "2026-11-22T12:00:15Z"}
    pods = [pod(name) for name in names]
    for each in pods:
        if ends := names[each["metadata"]["name"]]:
            each["metadata"]["deletionTimestamp"] = ends
    assert read_lost_pods(pods, read_time("2026-11-22T12:00:30Z")) == ("lost",)


def test_a_pod_that_is_ready_is_not_lost_whatever_the_clock_says():
    ready, lost = {"type": "Ready", "status": "True"}, {"type": "Ready", "status": "False"}
    given_up = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
    pods = [pod("well", conditions=[ready]), pod("lost", conditions=[lost]), pod("up", conditions=[ready, given_up])]
    for each in pods:
        each["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:15Z"
    assert read_lost_pods(pods, read_time("2026-11-22T12:00:30Z")) == ("lost", "up")


def test_out_of_memory_is_said_and_no_node_comes_last():
    scheduled = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/3 nodes are available"}
    killed = pod(waiting="CrashLoopBackOff", lastState={"terminated": {"reason": "OOMKilled"}})
    first, second = read_troubles([pod("w", conditions=[scheduled]), killed])
    assert first.message.endswith("(its last end: out of memory)")
    assert second.message == "no node can take pod w: 0/3 nodes are available"


def evaluation_job(*conditions, **metadata):
    annotations = {"llm360.ai/checkpoint": "sha256:1", "llm360.ai/tasks": "arc:25,hella", "llm360.ai/generation": "4"}
    labels = {"llm360.ai/evaluation": "762"}
    return {
        "metadata": {"name": "amber-eval-762-ab", "labels": labels, "annotations": annotations} | metadata,
        "status": {"conditions": [{"status": "True", **condition} for condition in conditions]},
    }


def evaluation_pod(created, job="amber-eval-762-ab", **terminated):
    return {
        "metadata": {
            "name": "x", "creationTimestamp": created, "labels": {"batch.kubernetes.io/job-name": job},
        },
        "status": {"containerStatuses": [{"state": {"terminated": terminated} if terminated else {}}]},
    }  # fmt: skip


def test_an_evaluation_that_runs_has_said_nothing():
    found = read_evaluation(evaluation_job(), [evaluation_pod("2026-11-22T12:00:00Z")])
    labels = frozenset({"arc:25", "hella"})
    assert found == Evaluation("amber-eval-762-ab", 762, "sha256:1", labels, generation=4)
    assert read_evaluation(evaluation_job(deletionTimestamp="2026-11-22T12:00:00Z"), []).is_deleting


def test_an_evaluation_whose_pod_is_lost_is_lost():
    pod = evaluation_pod("2026-11-22T12:00:00Z")
    assert read_evaluation(evaluation_job(), [pod], ["x"]).is_lost
    assert not read_evaluation(evaluation_job(), [pod], ["y"]).is_lost
    assert not read_evaluation(evaluation_job(), [pod]).is_losing_pod
    pod["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:05Z"
    assert read_evaluation(evaluation_job(), [pod]).is_losing_pod


def test_an_evaluations_last_pod_has_the_last_word():
    pods = [
        evaluation_pod("2026-11-22T12:00:00Z", message='{"reason": "Lost", "message": "first"}'),
        evaluation_pod("2026-11-22T12:09:00Z", message='{"reason": "Done", "message": "", "scores": [1]}'),
        evaluation_pod("2026-11-22T12:10:00Z", job="amber-eval-0-cd", message='{"reason": "Other", "message": ""}'),
    ]
    found = read_evaluation(evaluation_job({"type": "Complete"}), pods)
    assert (found.state, found.answer["scores"], found.reason) == ("Succeeded", [1], "Done")


@pytest.mark.parametrize(
    ("terminated", "reason", "message"),
    [
        ({"message": '{"reason": "TaskMissing", "message": "no arc"}'}, "TaskMissing", "no arc"),
        (
            {"message": "step 1\nllm360: error: no such analysis\n"},
            "BackoffLimitExceeded",
            "step 1 llm360: error: no such analysis",
        ),
        ({"message": "", "reason": "OOMKilled"}, "OOMKilled", "Job has reached its limit"),
        ({"message": "", "reason": "Error"}, "BackoffLimitExceeded", "Job has reached its limit"),
        ({}, "BackoffLimitExceeded", "Job has reached its limit"),
    ],
)
def test_why_an_evaluation_failed(terminated, reason, message):
    failed = {"type": "Failed", "reason": "BackoffLimitExceeded", "message": "Job has reached its limit"}
    found = read_evaluation(evaluation_job(failed), [evaluation_pod("2026-11-22T12:00:00Z", **terminated)])
    assert (found.state, found.reason, found.message) == ("Failed", reason, message)
