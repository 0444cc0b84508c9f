"""Runs that end badly say why and keep their release; a run that is removed, in whatever phase, leaves nothing."""

from __future__ import annotations

import pytest
from testbed import faults, kubectl

START_SECONDS, STEP_SECONDS = 600, 300
KUEUE = "kueue.x-k8s.io/v1beta1"


def wait_for_phase(run, phase, seconds=START_SECONDS):
    run.wait(lambda: run.status.get("phase") == phase, f"{run.name} in {phase}", seconds)


def kill_worker(run, attempt):
    """Kill a worker of a run that trains, its object says so; the next attempt begins, or none is left."""
    run.wait_for_step(1, START_SECONDS, attempt)
    run.wait(lambda: run.reason() == "Training", "Training", STEP_SECONDS)
    with faults.pod(run.pods("worker")[0]["metadata"]["name"], run.namespace):
        pass


@pytest.mark.takes(minutes=10)
def test_bad_ends_are_said_and_removal_in_any_phase_leaves_nothing(operator, make_run, llm360, namespace):
    """Three runs side by side. In the other phases tests of refusals, queues and alerts remove theirs."""
    queue = {"metadata": {"name": "nowhere", "namespace": namespace}, "spec": {"clusterQueue": f"{namespace}-none"}}
    kubectl.apply([{"apiVersion": KUEUE, "kind": "LocalQueue"} | queue])
    queued = make_run("queued", cluster={"queue": "nowhere"})
    # A checkpoint would count as progress, and there is none after that of step 0 for long.
    spent = make_run("spent", checkpoints={"schedule": {"everyChunk": False}}, recovery={"maxAttempts": 1})
    fleeting = make_run("fleeting", data={"chunks": 4})
    for run in (queued, spent, fleeting):
        run.apply()

    wait_for_phase(queued, "Queued")
    queued.patch({"suspend": True})
    wait_for_phase(queued, "Suspended")
    queued.remove()

    wait_for_phase(fleeting, "Preparing")
    fleeting.remove()
    fleeting.apply()  # a namesake, which goes on with what the first has left in the bucket
    kill_worker(spent, 1)
    wait_for_phase(fleeting, "Training")
    fleeting.remove()
    fleeting.apply()
    kill_worker(spent, 2)
    spent.wait_for_reason("AttemptsExhausted", STEP_SECONDS)
    check_exhausted(spent)

    spent.patch({"recovery": {"maxAttempts": 20}})
    wait_for_phase(fleeting, "Training")
    with faults.pod(fleeting.pods("head")[0]["metadata"]["name"], namespace):
        wait_for_phase(fleeting, "Recovering", 120)
    fleeting.remove()
    spent.wait_for_step(1, START_SECONDS, 3)
    spent.wait(lambda: spent.reason() == "Training", "Training", STEP_SECONDS)
    spent.patch({"suspend": True})
    wait_for_phase(spent, "Suspending", 60)
    spent.remove()
    llm360("verify", spent.uri)


def check_exhausted(run):
    """It says what it had, what failed last and what to do; its pods stay for a look, and no driver is started."""
    said = run.message()
    assert "1 attempt ended without a new checkpoint, as many as recovery.maxAttempts allows" in said, said
    assert "the last failure was" in said
    assert "change the specification" in said
    assert run.status["phase"] == "Failed"
    assert run.condition("Succeeded")["status"] == "False"
    warnings = [each["reason"] for each in kubectl.find("events", run.namespace) if each["type"] == "Warning"]
    assert "AttemptsExhausted" in warnings
    assert run.pods("head")
    jobs = kubectl.find("rayjobs.ray.io", run.namespace, f"llm360.ai/run={run.name}")
    assert len(jobs) == 1, "a driver that has given up was started again"
