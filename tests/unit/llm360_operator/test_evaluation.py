"""Each thing that can happen to the evaluations of a run, and what follows from it."""

import json
from dataclasses import replace

import pytest

from llm360.canonical import canonical_json, sha256_digest
from llm360_operator.case import Create
from llm360_operator.seen import Trouble

TASKS = [{"name": "arc", "shots": 25}, {"name": "hella"}]


@pytest.fixture
def evaluating(worlds, list_checkpoints):
    """A run that trains, with four checkpoints and two tasks."""
    world = worlds(evaluation={"tasks": TASKS})
    world.settle()
    world.train(30, totalSteps=30, checkpoints=list_checkpoints(0, 10, 20, 30))
    return world


def digest(step, branch=0):
    return sha256_digest(f"{step} {branch}".encode())


def name(step, branch=0):
    return f"amber-eval-{step}-{digest(step, branch)[7:13]}"


def made(decision):
    return [action.manifest["metadata"]["name"] for action in decision.evaluations if isinstance(action, Create)]


def evaluated(world):
    condition = next(c for c in world.status["conditions"] if c["type"] == "Evaluated")
    return condition["status"], condition["reason"]


def counts(world):
    evaluation = world.status["evaluation"]
    return [evaluation[name] for name in ("due", "done", "running", "waiting", "failed")]


def finish(world):
    """The training ends well and its cluster goes."""
    world.end_job(0)
    for _ in range(4):
        world.step()
        world.finish_deletions()
    assert world.cluster is None


def test_checkpoints_are_evaluated_one_after_the_other_while_the_training_goes_on(evaluating):
    assert made(evaluating.step()) == [name(0)]
    assert evaluating.status["evaluation"]["tasks"] == ["arc:25", "hella"]
    assert evaluating.said == ("Training", "Training")
    assert counts(evaluating) == [4, 0, 1, 3, 0]
    assert made(evaluating.step()) == []
    evaluating.end_evaluations()
    evaluating.step()
    assert evaluating.status["evaluations"] == 2
    decision = evaluating.step()  # what came of it is stored: the job goes
    assert [action.name for action in decision.evaluations] == [name(0)]
    evaluating.finish_deletions()
    assert made(evaluating.step()) == [name(10)]
    assert evaluated(evaluating) == ("Unknown", "Evaluating")


def test_a_job_does_all_tasks_that_are_left_and_says_so(evaluating):
    (action,) = evaluating.step().evaluations
    command = action.manifest["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command[:3] + command[4:7] == ["llm360", "eval", "s3://b/amber", digest(0), "--tasks", "arc:25,hella"]


def test_it_goes_on_after_the_training_and_its_cluster_are_gone(evaluating):
    evaluating.step()
    finish(evaluating)
    assert evaluating.said == ("Succeeded", "Complete")
    evaluating.evaluate_all()
    assert counts(evaluating) == [4, 4, 0, 0, 0]
    assert evaluated(evaluating) == ("True", "EvaluationsComplete")
    assert evaluating.evaluations == {}
    assert evaluating.step().wait is None
    assert [score["step"] for score in evaluating.status["evaluation"]["scores"]] == [30, 30]


def test_what_an_operator_that_died_had_begun_is_waited_for_and_not_done_again(evaluating):
    driver, _ = evaluating.driver, evaluating.step(is_status_lost=True)
    evaluating.driver = None
    evaluating.end_evaluations()
    for _ in range(2):
        assert evaluating.step().evaluations == (), "nobody has said yet which checkpoints there are"
    evaluating.driver = driver
    evaluating.step()
    assert counts(evaluating) == [4, 1, 0, 3, 0]


def test_what_is_asked_for_is_noted_before_a_job_is_made_of_it(training):
    """Jobs are only looked for from then on."""
    training.change(evaluation={"tasks": TASKS})
    assert made(training.step()) == []
    assert training.decisions[-1].wait <= 1
    assert made(training.step()) == [name(0)]


@pytest.fixture
def missed(evaluating):
    """A run whose end the operator missed: it was away between the steps 30 and 50."""
    evaluating.step()
    finish(evaluating)
    evaluating.status["totalSteps"] = 50
    for _ in range(40):
        evaluating.step()
        evaluating.finish_deletions()
        if counts(evaluating)[1] == 4:
            return evaluating
        evaluating.end_evaluations()
    raise AssertionError(evaluating.status["evaluation"])


def message(world):
    return next(c for c in world.status["conditions"] if c["type"] == "Evaluated")["message"]


def answer_of(*steps):
    later = [{"step": step, "entry": digest(step)} for step in steps]
    return {"reason": "Evaluated", "message": "0 new results", "scores": [], "later": later}


def test_the_runs_last_checkpoints_that_the_operator_missed_are_asked_of_the_ledger(missed):
    for _ in range(3):
        missed.step()
        missed.finish_deletions()
    (asking,) = missed.evaluations.values()
    assert (asking.step, asking.labels) == (30, frozenset())
    assert evaluated(missed) == ("Unknown", "CheckpointsUnknown")
    missed.end_evaluations(answer=answer_of(40, 50))
    missed.evaluate_all()
    assert counts(missed) == [6, 6, 0, 0, 0]
    assert evaluated(missed) == ("True", "EvaluationsComplete")
    assert missed.evaluations == {}
    assert missed.step().wait is None


def test_where_nobody_can_tell_of_them_it_says_so_and_asks_again_after_a_change(missed):
    for _ in range(3):
        missed.step()
        missed.finish_deletions()
    missed.end_evaluations(state="Failed", answer={"reason": "StoreGone", "message": "no bucket"}, reason="StoreGone")
    for _ in range(5):
        missed.step()
        missed.finish_deletions()
    assert missed.evaluations == {}
    assert evaluated(missed) == ("False", "CheckpointsUnknown")
    assert "at step 30" in message(missed)
    assert "StoreGone" in message(missed)
    missed.change(evaluation={"tasks": TASKS, "retries": 1})
    for _ in range(3):
        missed.step()
    assert [job.step for job in missed.evaluations.values()] == [30]


def test_a_pod_cannot_tell_of_checkpoints_that_are_none(missed):
    for _ in range(3):
        missed.step()
        missed.finish_deletions()
    words = [{"step": -1, "entry": digest(1)}, {"step": 40, "entry": "x"}, "y", {"entry": digest(2)}, {"step": "50"}]
    missed.end_evaluations(answer=answer_of() | {"later": words})
    for _ in range(5):
        missed.step()
        missed.finish_deletions()
    assert counts(missed)[0] == 4
    assert missed.evaluations == {}
    assert evaluated(missed) == ("False", "CheckpointsUnknown")


def test_a_task_that_is_added_to_a_finished_run_is_done_alone_for_all_checkpoints(evaluating):
    evaluating.step()
    finish(evaluating)
    evaluating.evaluate_all()
    evaluating.change(evaluation={"tasks": [*TASKS, {"name": "mmlu", "shots": 5}]})
    labels = []
    for _ in range(40):
        evaluating.step()
        labels += [job.labels for job in evaluating.evaluations.values() if job.state == "Active"]
        evaluating.finish_deletions()
        evaluating.end_evaluations()
    assert labels == [frozenset({"mmlu:5"})] * 4
    assert counts(evaluating) == [4, 4, 0, 0, 0]
    assert evaluating.said == ("Succeeded", "Complete")


def test_evaluation_may_be_changed_at_any_time_and_the_pods_stay(evaluating):
    evaluating.step()
    cluster, configs = evaluating.cluster, dict(evaluating.configs)
    evaluating.change(
        evaluation={"tasks": TASKS, "maxRunning": 3, "gpus": 2, "nodeSelector": {"pool": "a"}, "mirror": "s3://b/m"}
    )
    decision = evaluating.step()
    assert len(made(decision)) == 2  # and the one that runs
    pod = decision.evaluations[0].manifest["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"llm360.ai/eval": "true", "pool": "a"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    for _ in range(3):
        evaluating.step()
    assert (evaluating.cluster, evaluating.configs) == (cluster, configs)
    assert evaluating.said == ("Training", "Training")


def test_a_configuration_that_an_earlier_version_wrote_keeps_its_cluster(evaluating):
    """An upgrade may fill in more of a stored configuration; the pods that were made from it stay."""
    (name,) = evaluating.configs
    document = evaluating.seen().configs[name]
    older = json.loads(document)
    for field in ("maxRunning", "retries", "analyses"):
        del older["spec"]["evaluation"][field]
    evaluating.configs[name] = canonical_json(older)
    evaluating.cluster = replace(evaluating.cluster, digest=sha256_digest(evaluating.configs[name]))
    clusters = evaluating.clusters_made
    for _ in range(3):
        evaluating.step()
    evaluating.change(evaluation={"tasks": TASKS, "maxRunning": 2})
    for _ in range(5):
        evaluating.step()
        evaluating.finish_deletions()
    assert evaluating.clusters_made == clusters
    assert evaluating.said == ("Training", "Training")


def test_a_failed_evaluation_is_told_and_others_go_on(evaluating):
    evaluating.step()
    evaluating.step()
    evaluating.end_evaluations(
        state="Failed", reason="DataMissing", message="no arc in the mirror", answer={"scores": []}
    )
    for _ in range(3):
        evaluating.step()
        evaluating.finish_deletions()
    assert evaluated(evaluating) == ("False", "EvaluationFailed")
    message = evaluating.status["conditions"][-1]["message"]
    assert "the newest at step 0: DataMissing: no arc in the mirror; put it right" in message
    evaluating.evaluate_all()
    assert counts(evaluating) == [4, 3, 0, 0, 1]
    evaluating.change(evaluation={"tasks": TASKS, "mirror": "s3://b/mirror"})
    evaluating.evaluate_all()
    assert counts(evaluating) == [4, 4, 0, 0, 0]
    assert "failures" not in evaluating.status["evaluation"]


def test_of_a_failed_job_what_it_finished_is_done(evaluating):
    evaluating.step()
    evaluating.step()
    score = {"task": "hella", "metric": "acc", "value": 0.25}
    evaluating.end_evaluations(state="Failed", reason="SampleFailed", message="x", answer={"scores": [score]})
    evaluating.step()
    assert evaluating.status["evaluation"]["checkpoints"][0].split()[2:] == ["2", "1"]
    assert evaluating.status["evaluation"]["scores"] == [score | {"step": 0}]


def test_a_job_that_failed_for_an_older_specification_has_not_failed_for_the_new_one(evaluating):
    evaluating.step()
    evaluating.step()
    evaluating.change(evaluation={"tasks": TASKS, "mirror": "s3://b/mirror"})
    evaluating.end_evaluations(state="Failed", reason="DataMissing", message="x")
    evaluating.evaluate_all()
    assert counts(evaluating) == [4, 4, 0, 0, 0]


def test_a_run_that_holds_evaluates_nothing_and_goes_on_later(evaluating):
    evaluating.step()
    evaluating.step()
    evaluating.change(suspend=True)
    for _ in range(4):
        evaluating.step()
        evaluating.finish_deletions()
    assert evaluating.evaluations == {}
    assert evaluated(evaluating) == ("Unknown", "EvaluationsHeld")
    assert evaluating.said == ("Suspended", "SuspendAsked")
    evaluating.change(suspend=False)
    evaluating.evaluate_all()
    assert counts(evaluating) == [4, 4, 0, 0, 0]


def test_after_a_rewind_the_checkpoints_that_were_made_again_are_evaluated(evaluating, list_checkpoints):
    evaluating.step()
    evaluating.evaluate_all()
    evaluating.train(15, checkpoints=list_checkpoints(0, 10))
    evaluating.step()
    assert counts(evaluating)[:2] == [2, 2]
    evaluating.train(30, checkpoints=[*list_checkpoints(0, 10), *list_checkpoints(20, branch=1)])
    assert made(evaluating.step()) == [name(20, branch=1)]
    evaluating.evaluate_all()
    assert counts(evaluating)[:2] == [3, 3]


def test_a_job_of_a_checkpoint_that_was_given_up_goes(evaluating, list_checkpoints):
    evaluating.step()
    evaluating.step()
    evaluating.train(5, checkpoints=list_checkpoints(0, branch=1))
    decision = evaluating.step()
    assert [action.name for action in decision.evaluations] == [name(0)]


def test_which_checkpoints_are_evaluated(evaluating):
    evaluating.change(evaluation={"tasks": TASKS, "everyCheckpoints": 3, "maxRunning": 9})
    evaluating.evaluate_all()
    assert evaluating.evaluated_steps == {20}
    finish(evaluating)
    evaluating.evaluate_all()
    assert evaluating.evaluated_steps == {20, 30}
    evaluating.change(evaluation={"tasks": TASKS, "checkpoints": [10, 17]})
    evaluating.evaluate_all()
    assert evaluating.evaluated_steps == {10, 20, 30}


def test_analyses_follow_the_tasks_each_in_a_job_of_its_own(evaluating):
    evaluating.change(evaluation={"tasks": TASKS, "analyses": ["memorization", "perplexity"], "checkpoints": [10]})
    labels = []
    for _ in range(14):
        evaluating.step()
        labels += [sorted(job.labels) for job in evaluating.evaluations.values() if job.state == "Active"]
        evaluating.finish_deletions()
        evaluating.end_evaluations()
    assert labels == [["arc:25", "hella"], ["analysis/memorization"], ["analysis/perplexity"]]


def test_pods_that_cannot_run_are_told_and_do_not_touch_the_runs_own_condition(evaluating):
    evaluating.step()
    evaluating.step()
    evaluating.evaluation_troubles = (Trouble("Unschedulable", "no node can take pod x: 0/3 nodes"),)
    evaluating.step()
    assert evaluated(evaluating) == ("False", "Unschedulable")
    assert "kubectl label node" in evaluating.status["conditions"][-1]["message"]
    assert evaluating.said == ("Training", "Training")


def test_a_job_whose_pod_is_about_to_go_is_looked_at_soon_for_it_may_be_lost(evaluating):
    evaluating.step()
    assert evaluating.step().wait == 15
    evaluating.evaluations[name(0)] = replace(evaluating.evaluations[name(0)], is_losing_pod=True)
    decision = evaluating.step()
    assert (decision.evaluations, decision.wait) == ((), 5)


def test_a_job_on_a_lost_node_is_made_anew_and_has_not_failed(evaluating):
    evaluating.step()
    evaluating.evaluations[name(0)] = replace(evaluating.evaluations[name(0)], is_lost=True)
    decision = evaluating.step()
    assert [action.name for action in decision.evaluations] == [name(0)]
    assert decision.wait == 5
    evaluating.finish_deletions()
    assert made(evaluating.step()) == [name(0)]
    evaluating.evaluate_all()
    assert counts(evaluating) == [4, 4, 0, 0, 0]


def test_the_operators_bound_for_all_runs_holds(evaluating):
    evaluating.change(evaluation={"tasks": TASKS, "maxRunning": 4})
    evaluating.evaluation_slots = 0
    evaluating.step()
    assert made(evaluating.step()) == []
    assert evaluated(evaluating) == ("Unknown", "WaitsForOthers")
    evaluating.evaluation_slots = 2
    assert len(made(evaluating.step())) == 2


def test_words_that_are_wrong_leave_evaluations_as_they_are(evaluating):
    evaluating.step()
    evaluating.step()
    before = evaluating.status["evaluation"]
    evaluating.change(evaluation={"tasks": TASKS, "maxRunning": 0})
    decision = evaluating.step()
    assert decision.evaluations == ()
    assert evaluating.status["evaluation"] == before
    assert evaluating.said == ("Training", "InvalidSpec")


def test_a_run_without_tasks_remembers_its_checkpoints_alone(training):
    assert set(training.status["evaluation"]) == {"checkpoints"}
    assert "Evaluated" not in training.conditions


def test_a_stranger_or_a_driver_that_has_not_read_its_ledger_is_not_listened_to(evaluating, list_checkpoints):
    evaluating.step()
    for stranger in (None, "", "sha256:other"):
        evaluating.train(1, checkpoints=list_checkpoints(0), configDigest=stranger)
        evaluating.step()
        assert len(evaluating.status["evaluation"]["checkpoints"]) == 4


def test_360_checkpoints_and_8_tasks_are_small(evaluating, list_checkpoints):
    tasks = [{"name": f"task_number_{number}", "shots": number} for number in range(8)]
    evaluating.change(evaluation={"tasks": tasks, "maxRunning": 1000})
    evaluating.train(274320, checkpoints=list_checkpoints(*range(762, 274321, 762)))
    evaluating.evaluate_all(8)
    assert counts(evaluating) == [360, 360, 0, 0, 0]
    assert len(canonical_json(evaluating.status)) < 36_000
