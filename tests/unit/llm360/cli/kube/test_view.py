"""A run's status in words, for every way in which it can be wrong."""

from datetime import UTC, datetime, timedelta

import pytest

from llm360.cli.kube.view import problem, status_json, status_text

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
MINUTE_AGO = "2026-11-22T11:59:00Z"


def run_object(phase="Training", ready="True", progressing="True", reason="Training", **changes):
    conditions = [
        {"type": kind, "status": status, "reason": reason, "message": "so it is", "lastTransitionTime": MINUTE_AGO}
        for kind, status in (("Ready", ready), ("Progressing", progressing))
    ]
    status = {"phase": phase, "observedGeneration": 2, "conditions": conditions, "step": 99, "totalSteps": 400}
    written = {"subresource": "status", "time": "2026-11-22T11:59:52Z"}
    return {
        "metadata": {"name": "amber", "namespace": "research", "generation": 2, "managedFields": [{}, written]},
        "spec": {"preset": "amber-7b", "storage": {"uri": "s3://b/amber", "endpoint": "http://s3:9000"}},
        "status": status | changes,
    }


def test_text_has_a_line_per_fact():
    run = run_object(
        tokens=3_370_000,
        loss=3.25,
        tokensPerSecond=12_345.0,
        mfu=0.412,
        checkpoints=5,
        latestCheckpoint={"step": 96, "labels": ["ckpt_004"], "modelDigest": "sha256:1"},
        attempt=3,
        submission=2,
        failures=1,
        estimatedCompletion="2026-11-22T13:23:00Z",
        rayCluster="amber",
        ledgerHead="sha256:2",
    )
    assert status_text(run, NOW).splitlines() == [
        "run          amber (preset amber-7b) in namespace research",
        "phase        Training",
        "progress     [#######-----------------------] 24%, step 99 of 400",
        "tokens       3.37M",
        "loss         3.2500",
        "speed        12.3k tokens/s, MFU 41.2%",
        "checkpoints  5, the last one ckpt_004 at step 96",
        "attempts     3, in 2 jobs; 1 job ended badly since the last checkpoint",
        "done in      1h23m (2026-11-22 13:23:00 UTC, at the last step's rate)",
        "cluster      RayCluster amber",
        "release      s3://b/amber at http://s3:9000",
        "ledger head  sha256:2",
        "as of        8s ago",
    ]


def test_evaluation_has_its_counts_its_newest_scores_and_what_is_in_its_way():
    score = {"metric": "acc", "value": 0.25304, "step": 96}
    scores = [score | {"task": f"task{number}"} for number in range(9)]
    counts = {"due": 5, "done": 2, "running": 1, "waiting": 1, "failed": 1}
    run = run_object(evaluation=counts | {"scores": scores})
    run["status"]["conditions"].append(
        {"type": "Evaluated", "status": "False", "reason": "EvaluationFailed", "message": "it has no data"}
    )
    lines = dict(line.split(maxsplit=1) for line in status_text(run, NOW).splitlines())
    assert lines["evaluated"] == "2 of 5 checkpoints, 1 running, 1 waiting, 1 failed"
    assert lines["scores"] == ", ".join([*(f"task{number} acc 0.253" for number in range(8)), "and 1 more"])
    assert lines["evaluation"] == "EvaluationFailed: it has no data"
    assert "evaluated" not in status_text(run_object(evaluation={"checkpoints": ["0 a 0 0"]}), NOW)
    assert problem(run, NOW) is None, "it is no problem of the training"


@pytest.mark.parametrize(
    ("run", "kind", "reason"),
    [
        (run_object(), None, None),
        (run_object("Queued", "False", "False", "WaitsForQuota"), None, None),
        (run_object("Suspended", "False", "False", "SuspendAsked"), None, None),
        (run_object("Succeeded", "True", "False", "Complete"), None, None),
        (run_object("Starting", "False", "True", "WaitsForPods"), None, None),
        (run_object("Starting", "False", "False", "ImagePullFailed"), "stuck", "ImagePullFailed"),
        (run_object("Recovering", "False", "False", "Unschedulable"), "stuck", "Unschedulable"),
        (run_object("Failed", "False", "False", "AttemptsExhausted"), "failed", "AttemptsExhausted"),
        (run_object("Training", "True", "Unknown", "DriverUnreachable"), "unknown", "DriverUnreachable"),
        (run_object("Training", "False", "True", "InvalidSpec"), "invalid", "InvalidSpec"),
        (run_object("Recovering", "False", "True", "BackingOff"), "recovering", "BackingOff"),
        (run_object(observedGeneration=1), "unseen", "ChangeNotSeen"),
        ({"metadata": {"name": "a", "namespace": "b", "generation": 1}, "spec": {}}, "unseen", "NotSeen"),
    ],
)
def test_what_is_wrong(run, kind, reason):
    found = problem(run, NOW)
    assert (found.kind if found else None, found.reason if found else None) == (kind, reason)
    said = status_json(run, NOW)["problem"]
    assert (said or {}).get("reason") == reason


def test_what_is_wrong_stands_below_with_its_age_and_advice():
    text = status_text(run_object("Starting", "False", "False", "ImagePullFailed"), NOW)
    assert text.endswith("\n\nImagePullFailed: nothing moves until somebody acts, for 1m00s\n  so it is")
    assert text.count("so it is") == 1


def test_a_run_recovers_since_it_failed_not_since_it_began():
    run = run_object("Recovering", "False", "True", "PodsLost")
    run["status"]["conditions"][1]["lastTransitionTime"] = "2026-11-20T12:00:00Z"
    assert "PodsLost: something failed; it comes back by itself, for 1m00s\n" in status_text(run, NOW)


def test_a_phase_says_why_where_nothing_is_wrong():
    assert "phase     Starting (WaitsForPods): so it is\n" in status_text(
        run_object("Starting", "False", "True", "WaitsForPods"), NOW
    )


def test_an_operator_that_stopped_writing_is_told():
    run = run_object()
    assert problem(run, NOW + timedelta(minutes=4)) is None
    found = problem(run, NOW + timedelta(minutes=6))
    assert (found.kind, found.reason) == ("unknown", "OperatorSilent")
    assert "kubectl get pods -A -l app.kubernetes.io/name=llm360-operator" in found.message


def test_json_is_the_status_with_name_and_place():
    said = status_json(run_object(), NOW)
    assert (said["name"], said["namespace"], said["uri"], said["step"]) == ("amber", "research", "s3://b/amber", 99)
