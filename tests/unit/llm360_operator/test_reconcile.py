"""Each thing that can happen to a run, and what follows from it."""

import json
from dataclasses import replace

import pytest

from llm360.canonical import canonical_json, sha256_digest
from llm360.spec import resolved_from_json
from llm360_operator import builders
from llm360_operator.case import Create
from llm360_operator.seen import Job, Trouble
from llm360_operator.training import LOST_CONFIG_SECONDS, SILENT_SECONDS, STOP_MARGIN_SECONDS


def kinds(decision):
    return [
        f"+{action.manifest['kind']}" if isinstance(action, Create) else f"-{action.kind}"
        for action in decision.actions
    ]


def test_from_apply_to_training(world):
    assert kinds(world.step()) == ["+NetworkPolicy", "+ConfigMap", "+Job"]
    assert world.said == ("Preflight", "PreflightRuns")
    assert world.status["configDigest"].startswith("sha256:")
    assert kinds(world.step()) == []
    world.end_preflight(prepares=["stage1"])
    assert kinds(world.step()) == ["+RayCluster"]
    assert world.status["preflight"]["prepares"] == ["stage1"]
    assert world.said == ("Starting", "ClusterCreated")
    assert kinds(world.step()) == []
    assert world.said == ("Starting", "WaitsForPods")
    world.make_ready()
    assert kinds(world.step()) == ["+RayJob"]
    assert world.said == ("Starting", "JobSubmitted")
    world.step()
    assert world.said == ("Preparing", "DataIsPrepared")
    world.train(step=7)
    world.step()
    assert world.said == ("Training", "Training")
    assert world.conditions == {"Ready": "True", "Progressing": "True", "Suspended": "False", "Succeeded": "Unknown"}
    assert (world.status["step"], world.status["totalSteps"], world.status["checkpoints"]) == (7, 100, 1)
    assert world.status["rayCluster"] == "amber"


def test_a_run_trains_once_its_workers_have_claimed_an_attempt(world):
    world.settle()
    world.train(step=0, attempt=0, checkpoints=[])
    world.step()
    assert world.said == ("Starting", "WorkersStart")
    world.lose_pods(head=True)
    world.step()
    assert world.said == ("Starting", "PodsLost")  # nothing was begun that could be recovered
    world.make_ready()
    world.train(step=0, attempt=1, checkpoints=[])
    world.step()
    assert world.said == ("Training", "Training")


def test_a_run_that_recovers_trains_only_once_its_workers_do_again(training):
    training.lose_pods(head=True)
    training.step()
    assert training.said == ("Recovering", "PodsLost")
    training.make_ready()
    training.step()
    assert training.said == ("Recovering", "DriverStarts")
    assert training.conditions["Progressing"] == "Unknown", "nobody has heard of it yet"
    training.train(step=7, phase="Recovering")
    training.step()
    assert training.said == ("Recovering", "WorkersStart")
    assert training.conditions == {
        "Ready": "False", "Progressing": "True", "Suspended": "False", "Succeeded": "Unknown",
    }  # fmt: skip
    training.train(step=7)
    training.step()
    assert training.said == ("Training", "Training")


def test_success_stores_the_status_before_the_pods_go(training):
    training.end_job(0)
    assert kinds(training.step()) == []
    assert training.said == ("Succeeded", "Complete")
    assert training.status["step"] == 100
    assert kinds(training.step()) == ["-RayCluster", "-Job"]
    training.finish_deletions()
    decision = training.step()
    assert (kinds(decision), decision.wait) == ([], None)
    assert training.conditions == {"Ready": "True", "Progressing": "False", "Suspended": "False", "Succeeded": "True"}
    assert "rayCluster" not in training.status


@pytest.mark.parametrize(
    ("code", "reason"),
    [(2, "RowLengthDiffers"), (3, "Fenced"), (4, "AttemptsExhausted")],
    ids=["input", "fenced", "all"],
)
def test_what_no_retry_can_mend_is_final_and_the_pods_stay_for_a_look(training, code, reason):
    training.end_job(code, reason, "because of this")
    training.step()
    assert training.said == ("Failed", reason)
    assert training.conditions["Succeeded"] == "False"
    assert "because of this; put it right" in training.status["conditions"][0]["message"]
    training.pass_time(300)
    decision = training.step()
    assert kinds(decision) == ["-Job"]
    assert decision.wait == 300
    training.pass_time(301)
    training.finish_deletions()
    assert kinds(training.step()) == ["-RayCluster"]
    training.finish_deletions()
    assert training.step().wait is None
    assert training.said == ("Failed", reason)


def test_a_failed_job_is_followed_by_the_next_on_the_same_cluster_after_a_pause(training):
    training.run["spec"]["recovery"] = {"backoffSeconds": 20}
    training.change(recovery={"backoffSeconds": 20, "maxAttempts": 9})
    training.settle()
    made = training.clusters_made
    training.end_job(1)
    training.step()
    decision = training.step()
    assert training.said == ("Recovering", "BackingOff")
    assert (kinds(decision), decision.wait) == ([], 20)
    training.pass_time(20)
    assert kinds(training.step()) == ["+RayJob"]
    training.end_job(1)
    training.step()
    assert training.step().wait == 40
    training.pass_time(40)
    training.step()
    training.end_job(1)
    training.step()
    training.pass_time(80)
    assert kinds(training.step()) == ["-RayCluster"]
    training.settle()
    assert training.clusters_made == made + 1
    assert training.status["failures"] == 3


def test_a_new_checkpoint_between_two_failures_starts_the_count_again(training):
    for step in (1, 2, 3, 4, 5, 6, 7, 8):
        training.train(step, checkpoints=[{"step": step, "labels": [], "modelDigest": "sha256:2"}])
        training.step()
        training.end_job(1)
        training.step()
        training.pass_time(400)
        training.settle(4)
    assert training.status["failures"] == 1
    assert training.status["phase"] != "Failed"


def test_a_checkpoint_for_resuming_counts_as_much_as_a_published_one(training):
    for step in range(10, 90, 10):
        training.train(step, lastCheckpointStep=step)
        training.step()
        training.end_job(1)
        training.step()
        training.pass_time(400)
        training.settle(4)
    assert (training.status["failures"], training.status["failedAtStep"]) == (1, 80)
    assert training.status["phase"] != "Failed"


def test_a_driver_that_goes_on_from_a_checkpoint_has_not_made_it(training):
    said = []
    for _ in range(5):
        training.train(50, lastCheckpointStep=50)
        training.step()
        training.end_job(1)
        training.step()
        said.append(training.status["failures"])
        if training.status["phase"] == "Failed":
            break
        training.pass_time(400)
        training.settle(8)
    assert said == list(range(1, len(said) + 1))
    assert training.said == ("Failed", "AttemptsExhausted")


def test_after_a_rewind_new_checkpoints_count_from_there(training):
    training.train(50, lastCheckpointStep=50)
    training.step()
    training.end_job(1)
    training.step()
    training.pass_time(400)
    training.settle(4)
    training.train(20, lastCheckpointStep=20)
    training.step()
    assert (training.status["failures"], training.status["failedAtStep"]) == (1, 20)
    training.train(30, lastCheckpointStep=30)
    training.step()
    assert "failures" not in training.status


def test_jobs_that_fail_without_a_checkpoint_are_given_up_with_the_last_reason(training):
    for _ in range(5):
        training.end_job(1, "CudaError", "an illegal memory access")
        training.step()
        if training.status["phase"] == "Failed":
            break
        training.pass_time(400)
        training.settle(8)
    assert training.said == ("Failed", "AttemptsExhausted")
    assert "CudaError: an illegal memory access" in training.status["conditions"][0]["message"]


def test_a_failed_run_is_tried_again_once_its_specification_changes(training):
    training.end_job(2, "DataMissing", "no data")
    training.step()
    training.step()
    training.finish_deletions()
    training.change(recovery={"maxAttempts": 7})
    training.settle()
    training.train()
    training.step()
    assert training.said == ("Training", "Training")
    assert "failures" not in training.status


def test_a_failed_run_says_that_its_new_specification_is_wrong_too(training):
    training.end_job(2, "DataMissing", "no data")
    training.step()
    training.change(cluster={"workers": {"replicas": 1000}})
    for _ in range(3):
        training.step()
        assert training.said == ("Failed", "InvalidSpec")
        ready, *_, succeeded = training.status["conditions"]
        assert "cannot be shared by 1000 ranks" in ready["message"]
        assert "no data; put it right" in ready["message"]
        assert succeeded["reason"] == "DataMissing"
        assert "1000 ranks" not in succeeded["message"]
        training.finish_deletions()
    training.change(cluster={})
    training.settle()
    training.train()
    training.step()
    assert training.said == ("Training", "Training")


def test_a_failed_run_that_is_to_hold_keeps_no_pods_even_where_it_is_wrong_elsewhere(training):
    training.end_job(2, "DataMissing", "no data")
    training.step()
    training.change(suspend=True, cluster={"workers": {"replicas": 1000}})
    assert "-RayCluster" in kinds(training.step())
    training.finish_deletions()
    assert training.step().wait is None
    assert training.said == ("Failed", "InvalidSpec")
    training.change(cluster={})
    for _ in range(3):
        training.step()
    assert training.said == ("Suspended", "SuspendAsked")


def test_suspend_stops_the_driver_first_and_resume_goes_on(training):
    training.change(suspend=True)
    assert kinds(training.step()) == ["-RayJob", "-Job"]
    assert training.said == ("Suspending", "SuspendAsked")
    training.finish_deletions()
    assert kinds(training.step()) == ["-RayCluster"]
    training.finish_deletions()
    decision = training.step()
    assert training.said == ("Suspended", "SuspendAsked")
    assert (decision.wait, training.conditions["Suspended"]) == (None, "True")
    assert training.status["step"] == 7
    training.change(suspend=False)
    training.settle()
    assert training.live == [2]


def test_an_operator_that_builds_clusters_otherwise_leaves_those_there_are(training, monkeypatch):
    """An upgrade touches no run that has begun."""
    monkeypatch.setattr(builders, "RAY_VERSION", "3.0.0")
    monkeypatch.setattr(builders, "NODE_LOST_SECONDS", 60)
    assert kinds(training.step()) == []
    assert training.said == ("Training", "Training")


def test_what_a_driver_commits_while_it_stops_is_kept(training):
    training.change(suspend=True)
    training.driver["step"] = 8
    training.step()
    training.driver["step"] = 9
    training.step()
    for _ in range(2):
        training.finish_deletions()
        training.step()
    assert (training.said[0], training.status["step"]) == ("Suspended", 9)


def limit_of_ray(training):
    return builders.stop_seconds(resolved_from_json(training.configs[training.status["config"]]))


def test_a_driver_that_does_not_stop_is_waited_for_but_not_for_ever(training):
    training.change(suspend=True)
    training.step()
    training.jobs.clear()
    training.preflight = None
    assert kinds(training.step()) == []
    training.pass_time(limit_of_ray(training) + STOP_MARGIN_SECONDS)
    assert kinds(training.step()) == ["-RayCluster"]


def test_an_unreachable_driver_has_not_failed(training):
    training.driver = None
    training.step()
    assert training.said == ("Training", "DriverUnreachable")
    assert training.conditions["Progressing"] == "Unknown"
    assert training.status["step"] == 7


def test_a_driver_of_another_run_is_not_believed(training):
    training.driver["configDigest"], training.driver["step"] = "sha256:another", 99
    training.step()
    assert training.status["step"] == 7


@pytest.mark.parametrize("head", [True, False])
def test_lost_pods_leave_job_and_cluster_to_kuberay(training, head):
    training.lose_pods(head=head)
    decision = training.step()
    assert (kinds(decision), decision.wait) == ([], 5)
    assert training.said == ("Recovering", "PodsLost")
    training.make_ready()
    training.train(9)
    training.step()
    assert training.said == ("Training", "Training")


def test_other_operations_replace_the_pods_and_keep_the_identity(training):
    digest = training.status["configDigest"]
    training.change(cluster={"workers": {"replicas": 3}})
    assert kinds(training.step()) == ["+NetworkPolicy", "+ConfigMap", "-RayJob"]
    training.finish_deletions()
    assert kinds(training.step()) == ["-RayCluster"]
    for _ in range(6):
        training.finish_deletions()
        training.step()
        training.make_ready(3)
    assert (training.clusters_made, training.live) == (2, [2])
    assert training.status["configDigest"] == digest
    assert training.status["config"] != "amber-config"


def ask_to_stop(world):
    """The job is gone for other pods, and its driver still answers."""
    world.change(cluster={"workers": {"replicas": 3}})
    world.step()
    driver = world.driver
    world.finish_deletions()
    world.driver = driver | {"phase": "Training"}


def test_pods_are_replaced_once_the_driver_has_committed_its_last_records(training):
    ask_to_stop(training)
    training.driver |= {"step": 9}
    assert kinds(training.step()) == []
    assert training.said == ("Recovering", "ClusterReplaced")
    assert training.status["step"] == 9
    training.driver |= {"phase": "Stopped"}
    assert kinds(training.step()) == [], "it still commits its last records"
    training.driver = None
    assert kinds(training.step()) == ["-RayCluster"]


def test_a_driver_that_answers_late_in_the_middle_of_its_checkpoint_is_not_given_up(training):
    ask_to_stop(training)
    training.step()
    driver = training.driver
    for _ in range(3):
        training.pass_time(30)  # in which the operator, perhaps a new one, did not look
        training.driver = None
        assert kinds(training.step()) == []
        training.pass_time(SILENT_SECONDS - 1)
        assert kinds(training.step()) == []
        training.driver = driver
        assert kinds(training.step()) == []
    training.driver = None
    training.step()
    training.pass_time(SILENT_SECONDS)
    assert kinds(training.step()) == ["-RayCluster"]


def test_a_driver_that_does_not_answer_when_it_is_asked_to_stop_has_its_time_too(training):
    driver, training.driver = training.driver, None
    training.change(suspend=True)
    training.step()
    training.finish_deletions()
    assert kinds(training.step()) == []
    training.driver = driver
    training.pass_time(100)
    assert kinds(training.step()) == []


def test_a_driver_is_stopped_by_the_configuration_that_it_runs_with(training):
    training.change(recovery={"stopSeconds": 0})
    training.step()
    driver = training.driver
    training.finish_deletions()
    training.driver = driver | {"phase": "Training"}
    training.pass_time(120)
    assert kinds(training.step()) == []


def test_a_driver_whose_configuration_is_lost_has_its_time_to_stop(training):
    assert limit_of_ray(training) == LOST_CONFIG_SECONDS, "the built-in stopSeconds"
    training.configs.clear()
    training.change(suspend=True)
    training.step()
    driver = training.driver
    training.finish_deletions()
    training.driver = driver | {"phase": "Training"}
    training.pass_time(LOST_CONFIG_SECONDS)
    assert kinds(training.step()) == []
    training.pass_time(STOP_MARGIN_SECONDS)
    assert kinds(training.step()) == ["-RayCluster"]


@pytest.mark.parametrize("stop", [{"suspend": True}, {"cluster": {"workers": {"replicas": 3}}}])
def test_a_stop_that_is_taken_back_waits_for_the_driver_that_still_stops(training, stop):
    """Two drivers on one head would want the same port, and the operator would listen to the wrong one."""
    before = {name: training.run["spec"].get(name) for name in stop}
    training.change(**stop)
    training.step()
    driver = training.driver
    training.finish_deletions()
    training.driver = driver | {"phase": "Training", "step": 9}
    training.change(**{name: value or {} if name == "cluster" else False for name, value in before.items()})
    assert kinds(training.step()) == []
    assert (training.said, training.status["step"]) == (("Recovering", "JobEnding"), 9)
    training.driver |= {"phase": "Stopped"}
    assert kinds(training.step()) == []
    training.driver = None
    assert "+RayJob" in kinds(training.step())
    assert not training.status.keys() & {"stopping", "goneAfter"}


def a_wrong_object(world):
    world.change(cluster={"workers": {"replicas": 1000}})
    world.step()
    assert world.said == ("Training", "InvalidSpec")


def lost_pods(world):
    world.lose_pods()
    world.step()
    assert world.said == ("Recovering", "PodsLost")


@pytest.mark.parametrize("trouble", [a_wrong_object, lost_pods])
def test_a_driver_may_take_its_time_however_long_the_run_was_not_ready(training, trouble):
    trouble(training)
    training.pass_time(600)
    ask_to_stop(training)
    assert kinds(training.step()) == []
    training.change(cluster={"workers": {"replicas": 1000}})
    assert kinds(training.step()) == [], "an object that turns wrong meanwhile does not hasten it"
    training.driver = None
    training.step()
    training.pass_time(SILENT_SECONDS)
    assert kinds(training.step()) == ["-RayCluster"]
    training.finish_deletions()
    training.settle()
    assert not training.status.keys() & {"stopping", "goneAfter"}


def test_a_change_that_is_taken_back_before_the_pods_are_gone_stops_nothing_else(training):
    training.change(cluster={"workers": {"replicas": 3}})
    training.step()
    training.finish_deletions()
    training.change(cluster={})
    training.settle()
    assert (training.clusters_made, training.live) == (1, [2])
    assert "stopping" not in training.status


def test_a_driver_that_does_not_stop_is_not_waited_for_any_longer(training):
    ask_to_stop(training)
    assert kinds(training.step()) == []
    training.pass_time(limit_of_ray(training))
    assert kinds(training.step()) == [], "Ray itself ends it first"
    training.pass_time(STOP_MARGIN_SECONDS)
    assert kinds(training.step()) == ["-RayCluster"]


def test_what_only_the_operator_acts_on_disturbs_nothing(training):
    training.change(cluster={"keepOnFailure": "1h"}, evaluation={"everyCheckpoints": 5})
    for _ in range(3):
        assert kinds(training.step()) == []
    assert training.said == ("Training", "Training")


def test_an_invalid_change_is_told_and_the_run_goes_on(training):
    training.change(cluster={"workers": {"replicas": 1000}})
    training.step()
    training.step()
    assert training.said == ("Training", "InvalidSpec")
    assert training.conditions["Ready"] == "False"
    assert training.conditions["Progressing"] == "True"
    assert "cannot be shared by 1000 ranks" in training.status["conditions"][0]["message"]
    training.change(cluster={})
    training.step()
    training.step()
    assert training.said == ("Training", "Training")


def test_an_invalid_specification_is_told_and_nothing_is_made(world):
    world.change(preset="amber-tinny")
    decision = world.step()
    assert (kinds(decision), decision.wait) == ([], None)
    assert world.said == ("Pending", "InvalidSpec")
    assert "did you mean 'amber-tiny'?" in world.status["conditions"][0]["message"]


def test_a_release_in_a_folder_that_no_two_pods_share_is_refused(world):
    world.change(storage={"uri": "file:///releases/amber"})
    assert kinds(world.step()) == []
    assert world.said == ("Pending", "InvalidSpec")
    assert "'file:///releases/amber' is a folder" in world.status["conditions"][0]["message"]


def test_a_lost_configuration_is_not_made_up_again_but_looked_for(training):
    configs = dict(training.configs)
    training.configs.clear()
    decision = training.step()
    assert (kinds(decision), decision.wait) == ([], 10)
    assert training.said == ("Training", "ConfigLost")
    assert training.conditions["Ready"] == "False"
    training.configs = configs
    training.step()
    assert training.said == ("Training", "Training")


def test_an_identity_that_changed_before_the_status_named_it_is_told_until_it_is_put_back(world):
    world.step(is_status_lost=True)
    world.change(training={"seed": 7})
    for _ in range(3):
        assert kinds(world.step()) == []
        world.end_preflight()
    assert world.said == ("Pending", "InvalidSpec")
    assert "spec.training.seed: was 11111, is now 7; put that back" in world.status["conditions"][0]["message"]
    assert "configDigest" not in world.status, "it would hold from then on"
    world.change(training={}, cluster={"head": {"cpus": 3}})
    world.settle()
    world.train()
    world.step()
    assert world.said == ("Training", "Training")
    assert world.status["configDigest"]


def test_a_failed_preflight_takes_no_worker_and_is_tried_again(world):
    world.step()
    world.step()
    world.end_preflight("Failed", reason="BucketMissing", message="bucket b does not exist")
    decision = world.step()
    assert (kinds(decision), decision.wait) == ([], 60)
    assert world.said == ("Preflight", "BucketMissing")
    assert world.conditions["Progressing"] == "False"
    world.pass_time(60)
    assert kinds(world.step()) == ["-Job"]
    world.finish_deletions()
    world.settle()
    assert world.clusters_made == 1


@pytest.mark.parametrize("reason", ["ImagePullFailed", "SecretMissing", "Unschedulable", "PodCrashes"])
def test_pods_that_cannot_run_are_told_with_advice(world, reason):
    world.step()
    world.step()
    world.troubles = (Trouble(reason, "pod x: why"),)
    world.step()
    assert world.said == ("Preflight", reason)
    assert "pod x: why; " in world.status["conditions"][0]["message"]
    world.end_preflight()
    world.step()
    world.step()
    world.step()
    assert world.said == ("Starting", reason)
    assert world.conditions["Progressing"] == "False"


def test_without_kuberay_it_waits_and_says_so(world):
    world.is_kuberay_missing = True
    world.settle()
    assert world.said == ("Starting", "KubeRayMissing")
    world.is_kuberay_missing = False
    world.settle()
    assert world.clusters_made == 1


def test_a_name_that_is_taken(world):
    world.foreign = ("RayCluster amber",)
    world.step()
    assert world.said == ("Pending", "NameTaken")
    assert kinds(world.step()) == []


def test_a_run_that_its_user_resumes_waits_for_its_place_and_was_not_preempted(training):
    training.change(suspend=True)
    for _ in range(5):
        training.step()
        training.finish_deletions()
    training.change(suspend=False, cluster={"queue": "gpus"})
    training.has_queue = True
    said = []
    for _ in range(5):
        training.step()
        training.end_preflight()
        said.append(training.said)
    assert said[-1] == ("Queued", "WaitsForQuota")
    assert "Preempted" not in {reason for _, reason in said}


def test_kueue_admits_preempts_and_admits_again(world):
    world.change(cluster={"queue": "gpus"})
    world.has_queue = True
    for _ in range(5):
        world.step()
        world.end_preflight()
    world.step()
    assert world.said == ("Queued", "WaitsForQuota")
    world.admit()
    world.make_ready()
    world.step()
    world.train()
    world.step()
    assert world.said == ("Training", "Training")
    world.preempt()
    assert kinds(world.step()) == ["-RayJob"]
    assert world.said == ("Suspended", "Preempted")
    assert world.conditions["Suspended"] == "True"
    world.finish_deletions()
    world.settle()
    assert (world.live, world.clusters_made) == ([2], 1)
    assert "failures" not in world.status


def test_the_default_queue_of_a_namespace_is_told_like_one_that_the_run_names(world):
    world.step()
    world.step()
    world.preflight = replace(world.preflight, waits_in="default")
    world.step()
    assert world.said == ("Preflight", "WaitsForQuota")
    assert "the queue default" in world.status["conditions"][0]["message"]
    world.preflight = replace(world.preflight, waits_in="")
    world.end_preflight()
    world.step()
    world.cluster = replace(world.cluster, queue="default", is_suspended=True)
    world.step()
    assert world.said == ("Queued", "WaitsForQuota")
    world.cluster = replace(world.cluster, is_suspended=False)
    world.make_ready()
    world.step()
    world.train()
    world.step()
    world.cluster = replace(world.cluster, is_suspended=True, is_head_ready=False, ready_workers=0)
    world.driver = None
    world.step()
    assert world.said == ("Suspended", "Preempted")
    world.finish_deletions()
    world.vanish()
    world.step()
    assert world.said == ("Recovering", "ClusterCreated")
    world.cluster = replace(world.cluster, queue="default", is_suspended=True)
    world.step()
    assert world.said == ("Queued", "WaitsForQuota")


@pytest.fixture
def queued(worlds):
    """A run in the middle of its training, on pods that Kueue admitted."""
    world = worlds(has_queue=True)
    world.settle()
    world.train()
    world.step()
    return world


def test_a_job_that_gave_way_to_others_has_not_failed(queued):
    for number in range(1, 6):
        queued.preempt()
        queued.end_job(-15, "JobFailed", "the driver was killed")
        assert kinds(queued.step())[:1] == ["-RayJob"]
        assert queued.said == ("Suspended", "Preempted")
        queued.finish_deletions()
        queued.settle()
        queued.train()
        queued.step()
        assert queued.live == [number + 1]
    assert (queued.said[0], queued.clusters_made) == ("Training", 1)
    assert "failures" not in queued.status


def test_a_job_that_is_being_removed_has_not_failed(training):
    training.jobs[1] = Job(1, "Failed", None, "JobStopped", "stopped", training.now, is_deleting=True)
    training.step()
    assert training.said == ("Recovering", "JobEnding")
    training.finish_deletions()
    training.settle()
    assert (training.live, training.said) == ([], ("Recovering", "JobEnding")), "its driver still answers"
    training.driver = None
    training.step()
    training.pass_time(SILENT_SECONDS)
    training.settle()
    assert training.live == [2]
    assert "failures" not in training.status


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_no_retry_can_mend_is_final_whatever_else_happens_to_the_job(queued, code):
    queued.preempt()
    queued.end_job(code, "DataMissing", "no data")
    queued.step()
    assert queued.said == ("Failed", "DataMissing")


def test_what_becomes_of_an_older_job_does_not_disturb_the_newest(training):
    training.jobs = {
        1: Job(1, "Failed", None, "JobStopped", "stopped", training.now, is_deleting=True), 2: Job(2, "Active"),
    }  # fmt: skip
    assert kinds(training.step()) == []
    assert training.said == ("Training", "Training")


def test_a_cluster_removed_by_somebody_is_made_again(training):
    training.cluster, training.driver = None, None
    assert kinds(training.step()) == ["-RayJob"]
    training.settle()
    assert (training.clusters_made, training.live) == (2, [2])


def test_only_the_last_jobs_are_kept(training):
    training.change(recovery={"maxAttempts": 99})
    training.settle()
    for _ in range(6):
        training.end_job(1)
        training.step()
        training.pass_time(400)
        training.settle(8)
    assert len(training.jobs) == 3


def test_pods_of_an_older_image_are_given_no_field_that_came_since(training):
    (name,) = training.configs
    document = json.loads(training.configs[name])
    del document["spec"]["recovery"]["stopSeconds"]
    training.configs[name] = canonical_json(document)
    training.cluster = replace(training.cluster, digest=sha256_digest(training.configs[name]))
    assert kinds(training.step()) == []
    training.change(checkpoints={"resumeEvery": 5})
    training.settle()
    training.train(9)
    training.step()
    (newer,) = training.configs.keys() - {name}
    assert (training.status["config"], training.clusters_made) == (newer, 2)
    assert json.loads(training.configs[newer])["spec"]["recovery"].keys() == document["spec"]["recovery"].keys()
    assert training.cluster.digest == sha256_digest(training.configs[newer])
    assert training.said == ("Training", "Training")


def test_an_upgraded_operator_touches_no_run(training, monkeypatch):
    monkeypatch.setattr("llm360_operator.plan._resolve", lambda *_: pytest.fail("resolved again"))
    before = training.status
    training.step()
    assert training.status == before


def test_the_last_steps_are_followed_closely(training):
    training.train(99, estimatedSecondsLeft=1.0)
    assert training.step().wait == 2
    training.train(50, estimatedSecondsLeft=100.0)
    assert training.step().wait == 15
    training.train(100, phase="Succeeded", estimatedSecondsLeft=None)
    assert training.step().wait == 2


def test_pods_on_a_node_that_does_not_answer_are_given_up_by_force(training):
    training.lose_node()
    training.make_ready()
    assert not training.cluster.is_head_ready, "KubeRay makes no pods while the lost ones are there"
    training.step()
    assert training.lost_pods == ()
    training.make_ready()
    training.settle()
    assert training.said[0] in ("Recovering", "Training")
    assert training.clusters_made == 1


def test_lost_pods_do_not_keep_a_run_from_being_suspended(training):
    training.lose_node()
    training.change(suspend=True)
    training.settle()
    training.pass_time(SILENT_SECONDS)
    training.settle()
    assert training.said == ("Suspended", "SuspendAsked")
