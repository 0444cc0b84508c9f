"""What follows from where a run stands: one rule for each thing that can hold, in the order of `RULES`. Pure.

Each rule leads one step further and leaves the rest to the next round, unless there is nothing to wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from llm360.spec.cluster import duration_seconds
from llm360.spec.status import Phase
from llm360_operator import builders
from llm360_operator.case import Action, Case, Create, Memory, Step
from llm360_operator.seen import Job, Trouble
from llm360_operator.training import SOON_SECONDS, held_up, is_ready, progress_of, stopped, trained
from llm360_operator.verdict import FINAL, Verdict, condition

WAIT_SECONDS = 10.0
"""When to look again at something that takes its time, and of which no event may tell."""
PREFLIGHT_RETRY_SECONDS = 60.0
"""When a preflight that found something wrong is done again: the bucket, or the Secret, may have been put right."""
MAX_BACKOFF_SECONDS = 300.0
NEW_CLUSTER_AFTER = 3
"""Failed jobs in a row after which the cluster itself is replaced: a pod may be sick in a way nobody sees."""
KEPT_JOBS = 3
FINAL_EXIT_CODES = (2, 3, 4)
"""Of a driver for which trying again changes nothing: bad input, fenced, attempts exhausted."""

NOT_STOPPING: Memory = (("stopping", None), ("goneAfter", None))

TRY_AGAIN = "put it right, then change the specification in any operation (or suspend the run and resume it)"


def is_judged(case: Case, job: Job) -> bool:
    """Whether a job's bad end was counted."""
    return job.number <= int(case.status.get("judged", 0))


def next_step(case: Case) -> Step:
    """What the first rule says that has something to say."""
    return next(step for rule in RULES if (step := rule(case)) is not None)


def _and_on(case: Case, memory: Memory, actions: tuple[Action, ...] = ()) -> Step:
    """Go on in the same round: nothing has to be waited for, or stored, before the next step is taken.

    Args:
        case: The run.
        memory: What is to be remembered; the next step is decided with it.
        actions: What is done before that step's own.
    """
    following = replace(case, run=case.run | {"status": case.status | dict(memory)})
    step = next_step(following)
    return replace(step, actions=(*actions, *step.actions), memory=(*memory, *step.memory))


def finished(case: Case) -> Step | None:
    """A run that is over stays so; its pods go, at once or after the time that the user has for a look."""
    if case.phase not in FINAL or (case.phase == "Failed" and case.is_changed and not case.plan.problem):
        return None
    said = condition(case.status, "Succeeded")
    verdict = Verdict(case.phase, said["reason"], said["message"])
    # An object that is wrong elsewhere does not try the run again; that it is to hold frees the pods all the same.
    is_kept = case.phase == "Failed" and case.seen.cluster is not None and not case.is_suspend_asked
    left = _seconds_kept(case) if is_kept else 0.0
    if left > 0:
        return Step(verdict, case.delete_preflight(), left)
    actions = (
        *case.delete_jobs(),
        *case.delete_old_jobs(KEPT_JOBS),
        *case.delete_cluster(),
        *case.delete_preflight(),
    )
    is_clean = case.seen.cluster is None and case.seen.preflight is None and not actions
    return Step(verdict, actions, None if is_clean else WAIT_SECONDS)


def _seconds_kept(case: Case) -> float:
    """How long the pods of a failed run stay from now on."""
    stated = case.run["spec"].get("cluster", {}).get("keepOnFailure")
    seconds = duration_seconds(stated) if stated else 0
    if not stated and case.plan.config is not None:
        seconds = case.plan.config.spec.cluster.keep_on_failure_seconds
    return (case.since("Succeeded") + timedelta(seconds=seconds) - case.seen.now).total_seconds()


def succeeded(case: Case) -> Step | None:
    """The driver has said that the release is complete. The status is stored first; then the pods go."""
    job = case.newest_job
    if job is None or job.state != "Succeeded":
        return None
    uri = case.run["spec"].get("storage", {}).get("uri", "")
    message = f"the release is complete; check it with: llm360 verify {uri}"
    memory = (
        ("step", case.status.get("totalSteps")),
        ("submission", job.number),
        ("estimatedCompletion", None),
        *NOT_STOPPING,
    )
    return Step(Verdict("Succeeded", "Complete", message), wait=0.0, memory=memory)


def tried_again(case: Case) -> Step | None:
    """The object of a failed run was changed: what went wrong before is forgiven."""
    if case.phase != "Failed":
        return None
    memory = (("failures", None), ("failedAtStep", None), ("judged", case.submission))
    return Step(Verdict("Recovering", "TriedAgain", "the specification was changed; trying again"), (), 0.0, memory)


def suspended(case: Case) -> Step | None:
    """The user wants the run to hold: the driver checkpoints what it has, then the pods go."""
    if not case.is_suspend_asked:
        return None
    if case.live_jobs or case.seen.preflight or case.seen.cluster is not None:
        stopping = Verdict("Suspending", "SuspendAsked", "the driver writes a checkpoint and stops, then the pods go")
        step = _freed(case, stopping)
        return replace(step, actions=(*step.actions, *case.delete_preflight()))
    message = (
        "the run holds, and none of its pods is left; set spec.suspend to false: it goes on from its last checkpoint"
    )
    return Step(Verdict("Suspended", "SuspendAsked", message), memory=NOT_STOPPING)


def _freed(case: Case, verdict: Verdict) -> Step:
    """The driver is asked to stop; once it is silent, or has had its time, the pods go.

    What it commits last is what the status goes on saying.
    """
    is_over, memory = stopped(case)
    actions = case.delete_cluster() if is_over and not case.live_jobs else case.delete_jobs()
    return Step(verdict, actions, SOON_SECONDS, (*progress_of(case).items(), *memory))


def in_the_way(case: Case) -> Step | None:
    """Objects of somebody else bear our names: often those of a run of the same name that is just being removed."""
    if not case.seen.foreign:
        return None
    names = ", ".join(case.seen.foreign)
    message = f"there is already {names}, which belongs to somebody else; remove it, or give the run another name"
    return Step(Verdict(_phase_or(case, "Pending"), "NameTaken", message, is_stuck=True), wait=WAIT_SECONDS)


def invalid(case: Case) -> Step | None:
    """There is no valid configuration to go on with."""
    if case.plan.config is not None:
        return None
    verdict = Verdict(_phase_or(case, "Pending"), case.plan.reason, case.plan.problem, is_stuck=True)
    # A correction of the object is an event; a ConfigMap that is put back is not.
    return Step(verdict, wait=WAIT_SECONDS if case.plan.reason == "ConfigLost" else None)


def pinned(case: Case) -> Step | None:
    """The configuration is stored, in a ConfigMap, before anything is made from it."""
    plan, generation = case.plan, case.run["metadata"]["generation"]
    assert plan.config is not None
    is_noted = case.status.get("config") == plan.name and case.status.get("configGeneration") == generation
    if plan.problem or (plan.is_pinned and is_noted):
        return None
    memory = (
        ("config", plan.name),
        ("configDigest", plan.config.identity_digest()),
        ("configGeneration", generation),
    )
    actions: tuple[Create, ...] = ()
    if not plan.is_pinned:
        # The policy is there before the first pod; one of ours that is there already is left as it is.
        config_map = Create(builders.config_map(case.run, plan.name, plan.document))
        actions = (Create(builders.network_policy(case.run)), config_map)
    return _and_on(replace(case, plan=replace(plan, is_pinned=True)), memory, actions)


def looked_at_first(case: Case) -> Step | None:
    """Before any worker is asked for: can the store, the data and the tokenizer be used?"""
    plan, job = case.plan, case.seen.preflight
    found = case.status.get("preflight") or {}
    if case.has_begun or (found.get("passed") and found["config"] == plan.name):
        return None
    looking = Verdict("Preflight", "PreflightRuns", "a pod looks at the store, the data and the tokenizer")
    if job is None:
        assert plan.config is not None
        manifest = builders.preflight_job(case.run, plan.config, plan.name, case.settings.operator_image)
        return Step(looking, (Create(manifest),), WAIT_SECONDS)
    if job.is_deleting or job.config != plan.name:
        return Step(looking, case.delete_preflight(), SOON_SECONDS)
    if job.waits_in:
        waiting = f"the preflight pod waits for a place in the queue {job.waits_in}"
        return Step(Verdict("Preflight", "WaitsForQuota", waiting), wait=WAIT_SECONDS)
    if job.state == "Running":
        return Step(held_up(looking, case.seen.troubles), wait=WAIT_SECONDS)
    if job.state == "Passed":
        prepares = list(job.answer.get("prepares", []))
        return _and_on(case, (("preflight", {"passed": True, "config": plan.name, "prepares": prepares}),))
    reason = str(job.answer.get("reason") or "PreflightFailed")
    said = str(job.answer.get("message") or "the preflight pod ended without an answer; see its log")
    left = _seconds_until(case, job.finished or case.seen.now, PREFLIGHT_RETRY_SECONDS)
    verdict = Verdict("Preflight", reason, f"{said}. It is tried again every minute", is_stuck=True)
    return Step(verdict, case.delete_preflight() if left <= 0 else (), left if left > 0 else SOON_SECONDS)


def failed(case: Case) -> Step | None:
    """A job ended badly, and that was not counted yet."""
    job, status = case.newest_job, case.status
    if job is None or job.state != "Failed" or is_judged(case, job):
        return None
    assert case.plan.config is not None
    failures = status.get("failures", 0) + 1
    published = (status.get("latestCheckpoint") or {}).get("step", 0)
    memory = (
        ("failures", failures),
        ("failedAtStep", status.get("failedAtStep", published)),
        ("judged", job.number),
        ("submission", job.number),
        ("estimatedCompletion", None),
        *NOT_STOPPING,
    )
    if job.exit_code in FINAL_EXIT_CODES:
        return Step(Verdict("Failed", job.reason, f"{job.message}; {TRY_AGAIN}"), wait=0.0, memory=memory)
    if failures >= case.plan.config.spec.recovery.max_attempts:
        message = (
            f"{failures} jobs in a row ended without a new checkpoint, which is all that recovery.maxAttempts allows;"
            f" the last one: {job.reason}: {job.message}; {TRY_AGAIN}"
        )
        return Step(Verdict("Failed", "AttemptsExhausted", message), wait=0.0, memory=memory)
    return Step(Verdict("Recovering", job.reason, f"job {job.number} failed: {job.message}"), wait=0.0, memory=memory)


def backing_off(case: Case) -> Step | None:
    """After a bad end: a pause that grows, and after several on one cluster a new cluster."""
    job, failures = case.newest_job, case.status.get("failures", 0)
    if job is None or job.state != "Failed" or not failures or case.seen.cluster is None:
        return None
    assert case.plan.config is not None
    ended = job.ended or case.seen.now
    pause = min(case.plan.config.spec.recovery.backoff_seconds * 2.0 ** min(failures - 1, 10), MAX_BACKOFF_SECONDS)
    left = _seconds_until(case, ended, pause)
    what = f"job {job.number} failed: {job.reason}: {job.message}"
    if left > 0:
        return Step(Verdict("Recovering", "BackingOff", f"{what}; the next one follows in {left:.0f} s"), wait=left)
    if failures % NEW_CLUSTER_AFTER == 0 and case.seen.cluster.created <= ended:
        verdict = Verdict("Recovering", "ClusterReplaced", f"{what}; its pods are replaced before the next one")
        return Step(verdict, case.delete_cluster(), SOON_SECONDS)
    return None


def without_kuberay(case: Case) -> Step | None:
    """There is nobody who would make a cluster of it."""
    if not case.seen.is_kuberay_missing:
        return None
    message = (
        "the API server knows no RayCluster (ray.io/v1); install KubeRay 1.6 or later, the run then goes on by itself"
    )
    return Step(Verdict(_phase_or(case, "Starting"), "KubeRayMissing", message, is_stuck=True), wait=WAIT_SECONDS)


def replaced(case: Case) -> Step | None:
    """A cluster that is going, or that was made from another configuration, makes room for a new one."""
    cluster, plan = case.seen.cluster, case.plan
    if cluster is None:
        # What a vanished cluster ran cannot end any more: KubeRay would wait for it forever.
        verdict = Verdict(_phase_or(case, "Starting"), "ClusterGone", "the cluster is gone; its job is removed")
        return Step(verdict, case.delete_jobs(), SOON_SECONDS) if case.live_jobs else None
    assert plan.config is not None
    if not cluster.is_deleting and cluster.digest == plan.digest:
        return None
    phase: Phase = "Recovering" if case.has_begun else "Starting"
    first = "the driver writes a checkpoint and stops, then " if case.live_jobs or case.seen.driver else ""
    return _freed(case, Verdict(phase, "ClusterReplaced", f"{first}the pods make room for new ones"))


def clustered(case: Case) -> Step | None:
    """Head and workers: asked for once, admitted by Kueue where there is a queue, ready before a job is submitted."""
    cluster, config = case.seen.cluster, case.plan.config
    assert config is not None
    queue = config.spec.cluster.queue or (cluster.queue if cluster is not None else "")
    phase: Phase = "Recovering" if case.has_begun else "Starting"
    if cluster is None:
        verdict = Verdict(phase, "ClusterCreated", "head and workers are asked for")
        if queue:
            verdict = Verdict("Queued", "WaitsForQuota", f"the pods wait for a place in the queue {queue}")
        manifest = builders.ray_cluster(case.run, config, case.plan.name, case.plan.digest)
        return Step(verdict, (Create(manifest),), WAIT_SECONDS, NOT_STOPPING)
    if cluster.is_suspended:
        # One that waits for its place, as after a suspension that the user ended, has not lost it to others.
        is_new = condition(case.status, "Ready").get("reason") == "ClusterCreated"
        if queue and (not case.has_begun or case.phase == "Queued" or is_new):
            verdict = Verdict("Queued", "WaitsForQuota", f"the pods wait for a place in the queue {queue}")
        elif queue:
            message = f"the pods gave way to others in the queue {queue}; the run goes on when it is admitted again"
            verdict = Verdict("Suspended", "Preempted", message)
        else:
            message = (
                f"somebody set spec.suspend of RayCluster {case.name}; set it to false again, or name a queue in"
                " cluster.queue where Kueue manages all of the namespace"
            )
            verdict = Verdict("Suspended", "ClusterSuspended", message, is_stuck=True)
        return Step(verdict, case.delete_jobs(), WAIT_SECONDS)
    if case.live_jobs or is_ready(case):
        return None
    message = f"{cluster.ready_workers} of {config.spec.cluster.workers.replicas} workers are ready"
    verdict = Verdict(phase, "WaitsForPods", message + ("" if cluster.is_head_ready else ", the head is not"))
    troubles = case.seen.troubles or ((Trouble("PodsRefused", cluster.failure),) if cluster.failure else ())
    return Step(held_up(verdict, troubles), wait=WAIT_SECONDS)


def submitted(case: Case) -> Step | None:
    """A ready cluster without a job is given the next one, once the driver before has left."""
    if case.live_jobs:
        return None
    if "stopping" in case.status:  # a stop that its user took back; two drivers would want the same port
        is_over, memory = stopped(case)
        if not is_over:
            ending = Verdict("Recovering", "JobEnding", "the driver before is being stopped; the next one follows")
            return Step(ending, (), SOON_SECONDS, (*progress_of(case).items(), *memory))
    assert case.seen.cluster is not None
    number = case.submission + 1
    verdict = Verdict("Recovering" if case.has_begun else "Starting", "JobSubmitted", f"job {number} starts the driver")
    actions = (Create(builders.ray_job(case.run, number, case.seen.cluster.uid)), *case.delete_old_jobs(KEPT_JOBS - 1))
    return Step(verdict, actions, WAIT_SECONDS, (("submission", number), *NOT_STOPPING))


def _phase_or(case: Case, phase: Phase) -> Phase:
    """The phase in which a run that has begun stays, or the given one; without a cluster nothing trains."""
    if case.phase in ("Preparing", "Training") and case.seen.cluster is None:
        return "Recovering"
    return case.phase if case.has_begun else phase


def _seconds_until(case: Case, start: Any, seconds: float) -> float:
    return float((start + timedelta(seconds=seconds) - case.seen.now).total_seconds())


RULES: tuple[Callable[[Case], Step | None], ...] = (
    finished,
    succeeded,
    tried_again,
    suspended,
    in_the_way,
    invalid,
    pinned,
    looked_at_first,
    failed,
    backing_off,
    without_kuberay,
    replaced,
    clustered,
    submitted,
    trained,
)
"""The first that has something to say decides."""
