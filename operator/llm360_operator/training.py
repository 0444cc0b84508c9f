"""What is said of a run whose job is there: by its driver, or by its pods where that does not answer. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from llm360.canonical import sha256_digest
from llm360.spec.status import Phase
from llm360_operator.builders import stop_seconds
from llm360_operator.case import Case, Memory, Step
from llm360_operator.evaluation import GOING_SECONDS
from llm360_operator.names import STATUS_PORT
from llm360_operator.plan import read_config
from llm360_operator.progress import driver_progress, progress_text
from llm360_operator.seen import Trouble, read_time, write_time
from llm360_operator.verdict import Verdict

POLL_SECONDS = 15.0
"""How often the driver is asked how far it is."""
ENDED = ("Succeeded", "Stopped")
"""What a driver says of itself once it has ended, while it waits for that to be read."""
SOON_SECONDS = 2.0
"""When to look again at something that is about to happen."""
SILENT_SECONDS = 10.0
"""How long a driver that is being stopped may be silent: on a busy head, in the middle of a checkpoint, it is late."""
STOP_MARGIN_SECONDS = 15.0
"""How long the pods of a driver that is being stopped stay beyond its own limit."""
LOST_CONFIG_SECONDS = 165.0
"""The same where nothing says it any more: what the built-in `recovery.stopSeconds` comes to."""


def trained(case: Case) -> Step | None:
    """A job is there: what does its driver say?"""
    *older, job = case.live_jobs
    if older or job.is_deleting:
        verdict = Verdict("Recovering", "JobEnding", f"job {job.number} is being stopped; the next one follows")
        extra = tuple(action for action in case.delete_jobs() if len(case.live_jobs) > 1)
        return Step(verdict, extra, SOON_SECONDS, stopped(case)[1])
    progress = progress_of(case)
    memory = (*progress.items(), ("submission", job.number))
    verdict = _training_verdict(case, case.status | progress)
    wait = SOON_SECONDS if _is_ending(case.seen.driver) else POLL_SECONDS if is_ready(case) else GOING_SECONDS
    return Step(verdict, (), wait, memory)


def stopped(case: Case) -> tuple[bool, Memory]:
    """Whether a driver that is asked to stop has left, or has had its time; and what is to be remembered of it.

    One that has said its end is gone as soon as it is silent, any other after a while.
    """
    now, driver = case.seen.now, case.seen.driver
    begun, gone_after = read_time(case.status.get("stopping")) or now, read_time(case.status.get("goneAfter"))
    if driver is not None:
        gone_after = now if driver.get("phase") in ENDED else None
    elif gone_after is None:
        # Where no job ran when the stop began there is none; and while it prepares data it serves nothing.
        is_expected = "attempt" in case.status and bool(case.live_jobs or "stopping" in case.status)
        gone_after = now + timedelta(seconds=SILENT_SECONDS if is_expected else 0)
    is_gone = driver is None and gone_after is not None and now >= gone_after
    memory = (("stopping", write_time(begun)), ("goneAfter", gone_after and write_time(gone_after)))
    return is_gone or (now - begun).total_seconds() >= _limit(case), memory


def _limit(case: Case) -> float:
    """How long a driver may take to stop: by the configuration that its pods run with, which may be an older one."""
    digest = case.seen.cluster.digest if case.seen.cluster is not None else ""
    document = next((each for each in case.seen.configs.values() if sha256_digest(each) == digest), None)
    config = case.plan.config if document is None else read_config(document)
    return STOP_MARGIN_SECONDS + (LOST_CONFIG_SECONDS if config is None else stop_seconds(config))


def progress_of(case: Case) -> dict[str, Any]:
    """What the driver knows, as fields of the status; with a new checkpoint the failures before it are forgotten."""
    progress = driver_progress(case.seen.driver, case.status.get("configDigest", ""), case.seen.now)
    newest = progress.get("failedAtStep", 0)
    return progress | ({"failures": None} if newest > case.status.get("failedAtStep", newest) else {})


def _is_ending(driver: Mapping[str, Any] | None) -> bool:
    """Whether the driver is about to leave: what it says last is what the status will go on saying."""
    if driver is None:
        return False
    left = driver.get("estimatedSecondsLeft")
    return driver.get("phase") in ENDED or (left is not None and left < POLL_SECONDS)


def _training_verdict(case: Case, status: dict[str, Any]) -> Verdict:
    where = progress_text(status)
    if not is_ready(case):
        cluster, config = case.seen.cluster, case.plan.config
        assert cluster is not None
        assert config is not None
        phase: Phase = "Recovering" if status.get("attempt") else "Starting"
        lost = f"{cluster.ready_workers} of {config.spec.cluster.workers.replicas} workers are ready"
        if not cluster.is_head_ready:
            lost = "the head is not ready"
        verdict = Verdict(
            phase, "PodsLost", f"{lost}; the run goes on from its last checkpoint once they are ({where})"
        )
        return held_up(verdict, case.seen.troubles)
    if not status.get("attempt"):  # none was claimed yet
        if case.seen.driver is not None:
            return Verdict("Starting", "WorkersStart", "the driver has answered; its workers start")
        prepares = (status.get("preflight") or {}).get("prepares")
        if prepares:
            return Verdict(
                "Preparing", "DataIsPrepared", f"the data of {', '.join(prepares)} is prepared on the cluster"
            )
        return Verdict("Starting", "DriverStarts", "the driver starts; it has not answered yet")
    if case.seen.driver is not None:
        if case.seen.driver.get("phase") == "Recovering":
            return Verdict("Recovering", "WorkersStart", f"the driver has answered; its workers start again ({where})")
        return Verdict("Training", "Training", where)
    if case.phase == "Recovering":
        message = f"the driver starts again; it has not answered yet ({where})"
        return Verdict("Recovering", "DriverStarts", message, is_silent=True)
    message = f"the driver does not answer on port {STATUS_PORT} of the head; last known: {where}"
    return Verdict("Training", "DriverUnreachable", message, is_silent=True)


def is_ready(case: Case) -> bool:
    """Whether the head and all workers of a cluster that is there are ready."""
    cluster, config = case.seen.cluster, case.plan.config
    assert cluster is not None
    assert config is not None
    return cluster.is_head_ready and cluster.ready_workers >= config.spec.cluster.workers.replicas


def held_up(verdict: Verdict, troubles: tuple[Trouble, ...]) -> Verdict:
    """The verdict, or why nothing comes of it."""
    if not troubles:
        return verdict
    message = f"{troubles[0].message}; {ADVICE[troubles[0].reason]} ({verdict.message})"
    return replace(verdict, reason=troubles[0].reason, message=message, is_stuck=True)


ADVICE = {
    "ImagePullFailed": "see that cluster.image is right and that the nodes may pull it",
    "SecretMissing": "create what it names in the run's namespace, or correct storage.secretRef",
    "PodCrashes": "see the pod's log with kubectl logs",
    "Unschedulable": "free a node, add one, or change cluster.workers and cluster.head",
    "PodsRefused": "see cluster.priorityClass, and the namespace's quota and pod security",
}
