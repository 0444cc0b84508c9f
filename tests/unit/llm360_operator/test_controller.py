"""Whole rounds against a fake of our own API: what is asked, made, written and told. Below it everything fails."""

import asyncio
import copy

import pytest
from synthetic.operated import DONE, KEY, Operator, merged

from llm360_operator.api import ApiError
from llm360_operator.cache import FRESH_SECONDS
from llm360_operator.controller import TOLD_AFTER
from llm360_operator.names import Key


@pytest.fixture
def operator(make_run):
    return Operator(make_run())


@pytest.fixture
def ready(operator):
    """An operator whose run has a ready cluster and a running job."""
    operator.round()
    operator.api.update("Job", "amber-preflight", status={"conditions": DONE})
    operator.round()
    head = [{"type": "HeadPodReady", "status": "True"}]
    operator.api.update("RayCluster", "amber", status={"readyWorkerReplicas": 2, "conditions": head})
    operator.round()
    operator.driver = {
        "phase": "Training",
        "attempt": 1,
        "step": 7,
        "totalSteps": 100,
        "tokensPerSecond": 12.5,
        "loss": 3.0,
        "checkpoints": [],
    }
    operator.round()
    assert operator.api.status["phase"] == "Training"
    return operator


LOOK = ["get ConfigMap", "get Job", "get LLM360Run", "get RayCluster", "list RayJob"]


def test_a_round_asks_nothing_and_every_few_minutes_for_everything(ready):
    assert ready.round() == ([], 15)
    ready.driver["step"] = 8
    assert ready.round()[0] == ["patch status"]
    assert ready.api.status["step"] == 8
    ready.now += FRESH_SECONDS
    assert sorted(ready.round()[0]) == LOOK
    assert ready.round()[0] == []
    assert ready.asked[-1] == "http://amber-head-svc.research.svc:9360/status"


@pytest.mark.parametrize("change", [{"suspend": True}, {"cluster": {"workers": {"replicas": 3}}}])
def test_a_driver_that_is_asked_to_stop_is_asked_how_far_it_is_while_its_job_is_gone(ready, change):
    run = ready.api.objects["LLM360Run", *KEY]
    run["spec"] = merged(run["spec"], change)
    run["metadata"]["generation"] += 1
    assert "delete RayJob" in ready.round()[0]
    asked = len(ready.asked)
    ready.driver |= {"step": 9, "phase": "Stopped"}
    assert "delete RayCluster" not in ready.round()[0]
    assert (len(ready.asked), ready.api.status["step"]) == (asked + 1, 9)
    ready.driver = None
    assert "delete RayCluster" in ready.round()[0]


def test_transitions_are_told_once(ready):
    told = [(event["reason"], event["type"]) for event in ready.api.events]
    assert told == [
        ("PreflightRuns", "Normal"),
        ("ClusterCreated", "Normal"),
        ("JobSubmitted", "Normal"),
        ("Training", "Normal"),
    ]
    ready.driver = None
    ready.round()
    ready.round()
    assert [event["reason"] for event in ready.api.events[4:]] == ["DriverUnreachable"]


def test_a_run_that_is_gone_or_going_is_left_alone(ready):
    ready.api.objects["LLM360Run", *KEY]["metadata"]["deletionTimestamp"] = "2026-11-22T12:00:00Z"
    assert ready.round() == ([], None)
    del ready.api.objects["LLM360Run", *KEY]
    assert ready.round() == (["get LLM360Run"], None)


@pytest.mark.parametrize("code", [403, 422])
def test_what_kubernetes_will_not_take_is_told_and_tried_again(operator, code):
    operator.api.refuse["ConfigMap"] = ApiError(code, "Forbidden", "exceeded quota: small")
    _, wait = operator.round()
    ready = operator.api.status["conditions"][0]
    assert (wait, ready["reason"], ready["status"]) == (30, "Refused", "False")
    assert ready["message"].startswith("ConfigMap amber-config cannot be made: exceeded quota: small")
    assert operator.api.events[-1]["type"] == "Warning"
    assert "configDigest" not in operator.api.status
    operator.api.refuse.clear()
    operator.round()
    assert operator.api.status["configDigest"]


def test_once_the_configuration_is_stored_the_identity_holds_whatever_is_refused_then(operator):
    operator.api.refuse["Job"] = ApiError(403, "Forbidden", "exceeded quota: small")
    operator.round()
    assert operator.api.status["conditions"][0]["reason"] == "Refused"
    assert operator.api.status["configDigest"].startswith("sha256:")
    assert (operator.api.status["config"], operator.api.status["configGeneration"]) == ("amber-config", 1)


def test_an_api_server_without_an_answer_ends_the_round_before_the_status(operator):
    operator.api.refuse["ConfigMap"] = ApiError(0, "Unreachable", "no answer")
    with pytest.raises(ApiError):
        operator.round()
    assert operator.api.status == {}


def webhook(kind):
    return ApiError(500, "InternalError", f"failed calling webhook m{kind.lower()}.kb.io: connection refused")


def test_once_the_configuration_is_stored_the_identity_holds_whatever_goes_wrong_then(operator):
    operator.api.refuse["Job"] = webhook("Job")
    with pytest.raises(ApiError):
        operator.round()
    assert operator.api.status["configDigest"].startswith("sha256:")
    assert (operator.api.status["config"], operator.api.status["configGeneration"]) == ("amber-config", 1)


def test_what_goes_wrong_again_and_again_is_told_once_and_still_tried_again(ready):
    ready.api.objects.pop(("RayJob", "research", "amber-1"))
    ready.api.refuse["RayJob"] = webhook("RayJob")
    before, written = ready.api.status["conditions"][0], []
    for _ in range(TOLD_AFTER + 3):
        with pytest.raises(ApiError):  # the queue waits longer each time
            ready.round()
        written.append(ready.api.requests.count("patch status"))
    assert written == [0] * (TOLD_AFTER - 1) + [1, 0, 0, 0]
    said = ready.api.status["conditions"][0]
    assert (before["reason"], said["reason"], said["status"]) == ("Training", "Refused", "False")
    assert said["message"].startswith("RayJob amber-2 cannot be made: failed calling webhook mrayjob.kb.io")
    value = ready.metrics.registry.get_sample_value
    place = {"namespace": "research", "run": "amber", "phase": "Training"}
    assert value("llm360_run_phase", place | {"reason": "Refused"}) == 1
    ready.api.refuse.clear()
    ready.round()
    assert ready.api.status["conditions"][0]["reason"] == "JobSubmitted"
    assert [event["type"] for event in ready.api.events if event["reason"] == "Refused"] == ["Warning"]
    ready.watch()
    ready.api.objects.pop(("RayJob", "research", "amber-2"))
    ready.api.refuse["RayJob"] = webhook("RayJob")
    with pytest.raises(ApiError):
        ready.round()
    assert ready.api.status["conditions"][0]["reason"] == "JobSubmitted", "it is counted anew"


def test_a_configuration_that_is_put_back_is_found(ready):
    stored = ready.api.objects.pop(("ConfigMap", "research", "amber-config"))
    ready.now += FRESH_SECONDS
    assert ready.round()[1] == 10
    assert ready.api.status["conditions"][0]["reason"] == "ConfigLost"
    ready.api.put(stored)
    ready.is_deaf = True  # nobody watches ConfigMaps
    ready.round()
    assert ready.api.status["conditions"][0]["reason"] == "Training"


def test_the_policy_of_an_earlier_run_of_the_name_does_not_stand_for_ours(operator):
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "amber", "namespace": "research"}}
    policy["metadata"]["ownerReferences"] = [{"uid": "earlier"}]
    operator.api.put(policy)
    for _ in range(2):
        assert operator.round()[1] == 10
        said = operator.api.status["conditions"][0]
        assert said["reason"] == "NameTaken"
        assert said["message"].startswith("there is already NetworkPolicy amber, which belongs to somebody else")
    assert set(operator.api.objects) == {("LLM360Run", *KEY), ("NetworkPolicy", *KEY)}, "no pod without its policy"
    del operator.api.objects["NetworkPolicy", "research", "amber"]
    operator.round()
    assert operator.api.status["phase"] == "Preflight"
    made = operator.api.objects["NetworkPolicy", "research", "amber"]
    assert made["metadata"]["ownerReferences"][0]["uid"] == "u-1"


def test_a_policy_that_goes_while_it_is_looked_at_is_made_in_the_next_round(operator):
    policy = {"kind": "NetworkPolicy", "metadata": {"name": "amber", "namespace": "research"}}
    operator.api.put(policy)
    get = operator.api.get

    async def gone(kind, namespace, name):
        if kind == "NetworkPolicy":
            operator.api.objects.pop((kind, namespace, name))
        return await get(kind, namespace, name)

    operator.api.get = gone
    operator.round()
    assert operator.api.status["phase"] == "Preflight"
    assert ("NetworkPolicy", *KEY) in operator.api.objects


def test_a_child_that_is_there_already_is_found_not_made_twice(operator):
    operator.round()
    operator.api.objects["LLM360Run", *KEY].pop("status")
    operator.round()
    operator.round()
    assert operator.api.status["phase"] == "Preflight"


def test_a_run_that_was_just_made_is_not_looked_at(operator):
    operator.cache.take("LLM360Run", {"type": "ADDED", "object": operator.api.changed("LLM360Run", *KEY)})
    operator.is_deaf = True
    assert operator.round()[0] == ["create NetworkPolicy", "create ConfigMap", "create Job", "patch status"]


def test_a_child_that_was_not_known_has_the_run_looked_at_and_decided_anew_in_the_same_round(operator):
    operator.round()
    stored = operator.api.objects["ConfigMap", "research", "amber-config"]
    operator.api.objects["LLM360Run", *KEY].pop("status")
    operator.restart()
    operator.cache.take("LLM360Run", {"type": "ADDED", "object": operator.api.changed("LLM360Run", *KEY)})
    operator.is_deaf = True
    requests, _ = operator.round()
    assert requests[0] == "create NetworkPolicy"
    assert sorted(requests[1:]) == sorted([*LOOK, "list Pod", "patch status"])
    assert operator.api.objects["ConfigMap", "research", "amber-config"] == stored
    assert operator.api.status["phase"] == "Preflight"


def test_what_was_deleted_or_went_wrong_has_the_run_looked_at(ready):
    ready.is_deaf = True
    ready.api.objects["LLM360Run", *KEY]["spec"]["suspend"] = True
    ready.now += FRESH_SECONDS
    assert "delete RayJob" in ready.round()[0]
    assert set(LOOK) <= set(ready.round()[0])
    ready.driver = {**ready.driver, "step": 99}
    ready.api.refuse_status = lambda _: True
    with pytest.raises(ApiError):
        ready.round()
    assert ready.cache.view(KEY) is None


def test_where_a_child_goes_while_its_run_does_nothing_is_made_in_its_place(ready):
    del ready.api.objects["RayJob", "research", "amber-1"]
    ready.watch()
    del ready.api.objects["LLM360Run", *KEY]  # of which no event tells yet
    ready.is_deaf = True
    assert ready.round() == (["get LLM360Run"], None)


def test_what_others_write_to_a_child_is_news_only_where_it_is_read(ready):
    ready.watch()
    cluster = ready.api.objects["RayCluster", "research", "amber"]
    cluster["spec"] = {**cluster["spec"], "rayVersion": "2"}
    assert ready.watch() == 0
    cluster["status"] = {**cluster["status"], "readyWorkerReplicas": 1}
    assert ready.watch() == 1


def test_children_of_an_earlier_run_of_the_same_name_are_in_the_way(operator, make_run):
    cluster = {"kind": "RayCluster", "metadata": {"name": "amber", "namespace": "research"}, "spec": {}}
    cluster["metadata"]["ownerReferences"] = [{"uid": "earlier"}]
    operator.api.put(cluster)
    requests, wait = operator.round()
    assert "there is already RayCluster amber" in operator.api.status["conditions"][0]["message"]
    assert wait == 10
    assert not [request for request in requests if request.startswith(("create", "delete"))]


def test_a_cluster_without_kuberay(operator):
    operator.api.missing = {"RayCluster"}
    operator.round()
    operator.api.update("Job", "amber-preflight", status={"conditions": DONE})
    operator.round()
    assert operator.api.status["conditions"][0]["reason"] == "KubeRayMissing"


def test_pods_are_asked_for_only_while_they_may_have_something_to_tell(ready):
    ready.api.update("RayCluster", "amber", status={"readyWorkerReplicas": 1, "conditions": []})
    pod = {
        "kind": "Pod",
        "metadata": {"name": "amber-head", "namespace": "research", "labels": {"llm360.ai/run": "amber"}},
        "status": {"containerStatuses": [{"state": {"waiting": {"reason": "ErrImagePull", "message": "not found"}}}]},
    }
    ready.api.put(pod)
    requests, _ = ready.round()
    assert "list Pod" in requests
    ready_condition = ready.api.status["conditions"][0]
    assert ready_condition["reason"] == "ImagePullFailed"
    assert ready_condition["message"].startswith("pod amber-head: not found; see that cluster.image is right")


@pytest.fixture
def evaluating(ready, list_checkpoints):
    """An operator whose run trains while its first checkpoint is evaluated."""
    ready.api.objects["LLM360Run", *KEY]["spec"]["evaluation"] = {"tasks": [{"name": "arc"}]}
    ready.api.objects["LLM360Run", *KEY]["metadata"]["generation"] += 1
    ready.round()
    ready.driver |= {"checkpoints": list_checkpoints(10, 20), "configDigest": ready.api.status["configDigest"]}
    ready.round()
    ready.job = next(name for kind, _, name in ready.api.objects if kind == "Job" and "-eval-" in name)
    return ready


def evaluation_pod(job, state, **metadata):
    labels = {"llm360.ai/run": "amber", "llm360.ai/evaluation": "10", "batch.kubernetes.io/job-name": job}
    metadata = {"name": f"{job}-x", "namespace": "research", "labels": labels} | metadata
    return {"kind": "Pod", "metadata": metadata, "status": {"containerStatuses": [{"state": state}]}}


def test_an_evaluations_job_is_made_read_and_removed(evaluating):
    done = [{"type": "Complete", "status": "True"}]
    evaluating.api.update("Job", evaluating.job, status={"conditions": done})
    message = '{"reason": "Done", "message": "", "scores": [{"task": "arc", "metric": "acc", "value": 0.5}]}'
    evaluating.api.put(evaluation_pod(evaluating.job, {"terminated": {"message": message}}))
    requests, wait = evaluating.round()
    assert ("delete Job" in requests, wait) == (False, 1)
    assert evaluating.api.status["evaluation"]["scores"] == [{"task": "arc", "metric": "acc", "value": 0.5, "step": 10}]
    place = {"namespace": "research", "run": "amber"}
    value = evaluating.metrics.registry.get_sample_value
    assert value("llm360_evaluation_score", place | {"task": "arc", "metric": "acc"}) == 0.5
    assert value("llm360_evaluation_score_step", place | {"task": "arc", "metric": "acc"}) == 10
    assert value("llm360_run_evaluations", place | {"state": "done"}) == 1
    requests, _ = evaluating.round()
    assert "delete Job" in requests
    evaluating.round()
    assert [name for kind, _, name in evaluating.api.objects if kind == "Job" and "-eval-20-" in name]


def test_an_evaluation_that_went_well_at_last_has_failed_no_more(evaluating):
    failed = [{"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "no GPU"}]
    evaluating.api.update("Job", evaluating.job, status={"conditions": failed})
    evaluating.round()
    evaluating.round()
    assert evaluating.api.status["conditions"][-1]["reason"] == "EvaluationFailed"
    run = evaluating.api.objects["LLM360Run", *KEY]
    run["spec"]["evaluation"]["gpus"] = 0
    run["metadata"]["generation"] += 1
    for _ in range(8):
        evaluating.round()
        for kind, _, name in list(evaluating.api.objects):
            if kind == "Job" and "-eval-" in name:
                evaluating.api.update("Job", name, status={"conditions": DONE})
    assert "failures" not in evaluating.api.status["evaluation"]
    assert evaluating.api.status["evaluation"]["done"] == 2
    assert evaluating.api.status["conditions"][-1]["reason"] == "Evaluating"


def test_an_evaluations_pods_are_asked_for_only_while_none_is_ready(evaluating):
    assert evaluating.round()[0] == ["list Pod"]
    evaluating.api.update("Job", evaluating.job, status={"active": 1, "ready": 1})
    assert evaluating.round()[0] == []
    evaluating.now += FRESH_SECONDS
    assert sorted(evaluating.round()[0]) == sorted([*LOOK, "list Job"])
    evaluating.api.update("Job", evaluating.job, status={"active": 1, "ready": 1, "terminating": 1})
    assert evaluating.round()[0] == ["list Pod"]


def test_an_evaluation_that_kubernetes_will_not_take_is_told_and_the_training_goes_on(ready, list_checkpoints):
    ready.api.objects["LLM360Run", *KEY]["spec"]["evaluation"] = {"tasks": [{"name": "arc"}]}
    ready.api.objects["LLM360Run", *KEY]["metadata"]["generation"] += 1
    ready.round()
    ready.driver |= {
        "step": 21, "checkpoints": list_checkpoints(10, 20), "configDigest": ready.api.status["configDigest"],
    }  # fmt: skip
    for error in (ApiError(403, "Forbidden", "exceeded quota"), ApiError(500, "InternalError", "a webhook failed")):
        ready.api.refuse["Job"] = error
        _, wait = ready.round()
        evaluated = ready.api.status["conditions"][-1]
        assert (evaluated["type"], evaluated["status"], evaluated["reason"]) == (
            "Evaluated", "False", "EvaluationRefused",
        )  # fmt: skip
        assert error.message in evaluated["message"]
        assert (ready.api.status["step"], ready.api.status["conditions"][0]["reason"]) == (21, "Training")
        assert wait == 15
    refused = [event for event in ready.api.events if event["reason"] == "EvaluationRefused"]
    assert [event["type"] for event in refused] == ["Warning"], "told once"
    ready.api.refuse.clear()
    ready.round()
    assert ready.api.status["conditions"][-1]["reason"] == "Evaluating"


def test_what_kubernetes_will_not_take_of_evaluations_keeps_nothing_else_unwritten(evaluating):
    evaluating.api.refuse_status = lambda changes: "evaluation" in changes
    evaluating.api.update("Job", evaluating.job, status={"conditions": [{"type": "Complete", "status": "True"}]})
    before = evaluating.api.status["evaluation"]
    evaluating.driver["step"] = 99
    evaluating.round()
    assert (evaluating.api.status["step"], evaluating.api.status["evaluation"]) == (99, before)
    refused = evaluating.api.status["conditions"][-1]
    assert refused["reason"] == "EvaluationRefused"
    assert "status.evaluation is invalid" in refused["message"]
    evaluating.api.refuse_status = lambda _: True
    evaluating.driver["step"] = 100
    with pytest.raises(ApiError):
        evaluating.round()


def test_a_pod_of_an_evaluation_that_cannot_run_is_no_trouble_of_the_training(evaluating):
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    evaluating.api.put(evaluation_pod(evaluating.job, waiting))
    evaluating.api.update("RayCluster", "amber", status={"readyWorkerReplicas": 1, "conditions": []})
    evaluating.round()
    reasons = {condition["type"]: condition["reason"] for condition in evaluating.api.status["conditions"]}
    assert (reasons["Ready"], reasons["Evaluated"]) == ("PodsLost", "ImagePullFailed")


def test_after_a_restart_what_runs_already_counts_against_the_bound(evaluating):
    """Another run's evaluation takes the only place; once it is gone, whoever waits is told."""
    other = copy.deepcopy(evaluating.api.objects["Job", "research", evaluating.job])
    other["metadata"] |= {"name": "other-eval", "namespace": "elsewhere"}
    other["metadata"]["labels"]["llm360.ai/run"] = "other"
    other["metadata"]["ownerReferences"][0]["name"] = "other"
    evaluating.api.put(other)
    del evaluating.api.objects["Job", "research", evaluating.job]
    evaluating.restart(max_evaluations=1)
    woken = []
    evaluating.controller.wake = woken.append
    requests, _ = evaluating.round()
    assert "create Job" not in requests
    assert evaluating.api.status["conditions"][-1]["reason"] == "WaitsForOthers"
    asyncio.run(evaluating.controller.round(Key("elsewhere", "other")))  # its object is gone
    assert woken == [KEY]
    assert "create Job" in evaluating.round()[0]


@pytest.mark.parametrize("labels", [{}, {"llm360.ai/run": "other"}, {"llm360.ai/run": "amber"}])
@pytest.mark.parametrize(
    "owner", [None, {"kind": "CronJob", "name": "amber"}, {"kind": "LLM360Run", "name": "amber-2"}]
)
def test_what_others_label_as_evaluations_counts_for_nothing(operator, labels, owner):
    metadata = {"name": "x", "namespace": "tenant", "labels": {"llm360.ai/evaluation": "1"} | labels}
    if owner:
        metadata["ownerReferences"] = [{"uid": "u-9", "controller": True} | owner]
    operator.restart(max_evaluations=1)
    operator.api.put({"kind": "Job", "metadata": metadata, "status": {}})
    operator.round()
    assert operator.api.status["phase"] == "Preflight"
    assert operator.controller._sharing.slots(KEY, 0) == 1


def test_a_job_of_an_earlier_run_of_the_name_is_none_of_ours(evaluating):
    evaluating.api.objects["Job", "research", evaluating.job]["metadata"]["ownerReferences"][0]["uid"] = "earlier"
    evaluating.api.update("Job", evaluating.job, status={"conditions": [{"type": "Complete", "status": "True"}]})
    evaluating.round()
    assert evaluating.api.status["evaluation"]["done"] == 0


def test_scores_go_with_their_task_and_with_their_run(evaluating):
    def series():
        families = evaluating.metrics.registry.collect()
        return {sample.labels["task"] for family in families for sample in family.samples if "task" in sample.labels}

    scores = [{"task": task, "metric": "acc", "value": 0.5, "stderr": 0.1, "step": 1} for task in ("arc", "hella")]
    evaluating.metrics.note_evaluation(KEY, {"scores": scores})
    assert series() == {"arc", "hella"}
    evaluating.metrics.note_evaluation(KEY, {"scores": scores[:1]})
    assert series() == {"arc"}
    del evaluating.api.objects["LLM360Run", *KEY]
    evaluating.round()
    assert series() == set()


def test_metrics_count_rounds_and_phases(ready):
    def value(name, **labels):
        return ready.metrics.registry.get_sample_value(name, labels)

    assert value("llm360_operator_runs", phase="Training") == 1
    assert value("llm360_operator_runs", phase="Preflight") == 0
    assert value("llm360_run_phase", namespace="research", run="amber", phase="Training", reason="Training") == 1
    assert value("llm360_operator_reconcile_seconds_count") == 4
    assert value("llm360_operator_decision_seconds_count") == 4


def test_a_run_has_one_phase_and_none_once_it_is_gone(ready):
    def phases():
        families = {family.name: family for family in ready.metrics.registry.collect()}
        return {sample.labels["phase"] for sample in families["llm360_run_phase"].samples}

    assert phases() == {"Training"}
    ready.metrics.note_phase(Key("research", "amber"), "Failed", "JobFailed")
    assert phases() == {"Failed"}
    ready.metrics.note_phase(Key("research", "amber"), None)
    assert phases() == set()
    assert ready.metrics.registry.get_sample_value("llm360_operator_runs", {"phase": "Failed"}) == 0
