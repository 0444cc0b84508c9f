"""What to evaluate next of a run's checkpoints: pure, and beside the rules that lead its training.

A checkpoint's Job does all tasks that are left for it, then another each analysis; its name follows from the
checkpoint, so there is one at a time. What it came to is stored in the status first, then the Job is removed, so a
round that is cut off anywhere is simply taken again. Nothing here waits for the training, nor the training for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from llm360.spec import ResolvedRun
from llm360.spec.evaluation import Evaluation as Settings
from llm360.spec.status import Phase
from llm360_operator.builders import ANALYSIS, evaluation_job
from llm360_operator.case import Action, Case, Create, Decision, Delete
from llm360_operator.evaluated import Memory, Record, read_memory, write_memory
from llm360_operator.seen import Evaluation
from llm360_operator.sharing import Share
from llm360_operator.verdict import FINAL, condition, stated

POLL_SECONDS = 30.0
"""When to look again while something runs or waits; events of Jobs tell most of it earlier."""
SOON_SECONDS = 1.0
GOING_SECONDS = 5.0
"""When to look whether Jobs and pods that are on their way out are gone, or lost with their nodes."""

TRY_AGAIN = "put it right, then change any operation of the specification, and it is tried again"


@dataclass(frozen=True)
class Evaluated:
    """What a round comes to for evaluations.

    Attributes:
        actions: To be done whatever becomes of them: none of them may keep the training waiting.
        fields: Of the status; None takes one away.
        condition: The condition Evaluated, if anything is asked for.
        share: What the run has of the evaluations that the operator allows.
        wait: Seconds until the run is looked at again for this.
    """

    actions: tuple[Action, ...]
    fields: dict[str, Any]
    condition: dict[str, Any] | None
    share: Share
    wait: float | None = None


@dataclass(frozen=True)
class _Jobs:
    """The Jobs that are there, by what is to be done about them."""

    busy: tuple[Evaluation, ...]
    deleted: tuple[Evaluation, ...]
    ended: tuple[Evaluation, ...]


def evaluate(case: Case, phase: Phase) -> Evaluated:
    """Decide which Jobs are made and removed.

    Args:
        case: The run.
        phase: In which this round leaves it.
    """
    config, evaluation = case.plan.config, case.plan.evaluation
    before = condition(case.status, "Evaluated")
    if config is None or evaluation is None or case.seen.foreign:
        # Nothing is known for sure: all stays as it is.
        running = sum(job.state == "Active" for job in case.seen.evaluations)
        return Evaluated((), {}, dict(before) or None, Share(running, 0))
    stored = read_memory(case.status)
    asked = labels_asked(evaluation.tasks, evaluation.analyses)
    memory = _heard(case, stored, phase).asking(asked)
    if case.is_changed:
        memory = memory.trying_again()
    jobs = _sorted_jobs(case, stored, memory, frozenset(asked), is_heard=_listed(case) is not None or phase in FINAL)
    for job in jobs.ended:
        memory = memory.taking(job)
    for job in jobs.deleted:
        if _has_not_told(job, case, memory, phase):
            memory = memory.without_answer(job)
    due = _due(memory, evaluation.due([r.step for r in memory.records], is_complete=phase == "Succeeded"))
    there = {job.digest for job in (*jobs.busy, *jobs.deleted, *jobs.ended)}
    waiting = [record for record in due if _left(record, asked) and record.digest not in there]
    is_asking = bool(asked) and not waiting and not there and _may_ask(case, memory, phase)
    if is_asking:
        waiting = [memory.records[-1]]  # whose Job, with nothing left to compute, tells of those after it
    wanted = waiting[: _num_free(case, stored, len(there), evaluation.max_running)]
    begun = wanted[: case.seen.evaluation_slots]
    creates = [_create(case, config, evaluation, record, asked) for record in begun]
    counts = {
        "due": len(due),
        "done": sum(record.done >= set(asked) for record in due),
        "running": len(jobs.busy) + len(begun),
        "waiting": 0 if is_asking else len(waiting) - len(begun),
        "failed": sum(bool(record.failed & set(asked)) for record in due),
    }
    fields = (counts if asked or there else {}) | write_memory(memory)
    return Evaluated(
        (*(Delete("Job", job.name) for job in jobs.deleted if not job.is_deleting), *creates),
        {"evaluation": fields or None, "evaluations": memory.num_evaluations if memory.labels else None},
        _condition(case, phase, counts, memory) if asked else None,
        Share(counts["running"], len(wanted) - len(begun)),
        _wait(jobs, is_noted=bool(stored.labels), is_open=bool(waiting) and not case.is_suspend_asked),
    )


def _create(case: Case, config: ResolvedRun, evaluation: Settings, record: Record, asked: Sequence[str]) -> Create:
    """A Job that does the next of what is left of a checkpoint, or with nothing left tells of those after it."""
    left = _left(record, asked)
    job = evaluation_job(
        case.run, config, evaluation, record.step, record.digest, _next_job(left or asked), is_done=not left
    )
    return Create(job)


def evaluation_refused(decision: Decision, message: str, now: datetime) -> Decision:
    """The decision after Kubernetes would not take what was decided about evaluations: all else in it stands."""
    status = dict(decision.status)
    others = [entry for entry in status["conditions"] if entry["type"] != "Evaluated"]
    advice = "see the operator's rights in the namespace, its quota and its admission rules; it is tried again"
    entry = stated(
        condition(status, "Evaluated"),
        "Evaluated",
        "False",
        "EvaluationRefused",
        f"{message}; {advice}",
        status["observedGeneration"],
        now,
    )
    status["conditions"] = [*others, entry]
    return replace(decision, status=status, wait=min(POLL_SECONDS, decision.wait or POLL_SECONDS))


def without_evaluation(decision: Decision, before: Mapping[str, Any], message: str, now: datetime) -> Decision:
    """The decision after Kubernetes would not take the status: of evaluations it says what it said before."""
    names = ("evaluation", "evaluations")
    status = {name: value for name, value in decision.status.items() if name not in names}
    status |= {name: before[name] for name in names if name in before}
    return evaluation_refused(replace(decision, status=status), f"the status of evaluations: {message}", now)


def labels_asked(tasks: Sequence[Any], analyses: Sequence[str]) -> tuple[str, ...]:
    """What is asked for of each checkpoint, in the order in which it is done."""
    return (*(task.label for task in tasks), *(ANALYSIS + name for name in analyses))


def _heard(case: Case, memory: Memory, phase: Phase) -> Memory:
    """With the checkpoints that the run's own driver lists, if it has read its ledger already.

    After a good end without a driver the ledger is what it is: then what evaluations found there counts, too.
    """
    if case.seen.driver is None and phase == "Succeeded":
        for job in case.seen.evaluations:
            memory = memory.hearing(job)
    listed = _listed(case)
    return memory if listed is None else memory.knowing(listed)


def _listed(case: Case) -> list[Mapping[str, Any]] | None:
    """The checkpoints that the run's own driver lists; None where it says nothing of them."""
    driver = case.seen.driver
    if driver is None or "checkpoints" not in driver or driver.get("configDigest") != case.status.get("configDigest"):
        return None
    return list(driver["checkpoints"])


def _misses_checkpoints(case: Case, memory: Memory, phase: Phase) -> bool:
    """Whether the operator was away when the run ended: a checkpoint always follows the last step."""
    last = memory.records[-1].step if memory.records else -1
    return phase == "Succeeded" and last < case.status.get("totalSteps", last)


def _may_ask(case: Case, memory: Memory, phase: Phase) -> bool:
    """Whether a Job of the newest known checkpoint is to tell of those after it, and did not fail to."""
    is_known = bool(memory.records) and memory.records[-1].step not in memory.failures
    return _misses_checkpoints(case, memory, phase) and is_known


def _has_not_told(job: Evaluation, case: Case, memory: Memory, phase: Phase) -> bool:
    """Whether a Job ended that had only later checkpoints to tell, and there is still none after its own."""
    is_asking = job.state != "Active" and not job.labels and job.generation == case.run["metadata"]["generation"]
    return is_asking and _may_ask(case, memory, phase) and job.digest == memory.records[-1].digest


def _sorted_jobs(case: Case, stored: Memory, memory: Memory, asked: frozenset[str], *, is_heard: bool) -> _Jobs:
    """Sort the Jobs that are there.

    One that failed before the specification changed has not failed for the new one; one on a lost node is made anew.
    One of a checkpoint that is not known stays until it is heard which there are: it may have been made by an operator
    that died before it wrote its status.
    """
    settled = {record.digest: record.settled for record in stored.records}
    known = {record.digest for record in memory.records}
    generation = case.run["metadata"]["generation"]
    found: dict[str, list[Evaluation]] = {"busy": [], "deleted": [], "ended": []}
    for job in case.seen.evaluations:
        is_unknown = job.digest not in known
        is_unwanted = is_unknown and is_heard
        if job.state == "Active":
            has_nothing = bool(job.labels) and not job.labels & asked
            is_unwanted = is_unwanted or job.is_lost or case.is_suspend_asked or has_nothing
        else:
            is_outdated = job.state == "Failed" and job.generation != generation
            is_unwanted = is_unwanted or is_outdated or job.labels <= settled.get(job.digest, frozenset())
        is_busy = job.state == "Active" or is_unknown
        kind = "deleted" if is_unwanted or job.is_deleting else "busy" if is_busy else "ended"
        found[kind].append(job)
    return _Jobs(*(tuple(found[kind]) for kind in ("busy", "deleted", "ended")))


def _due(memory: Memory, steps: Sequence[int]) -> list[Record]:
    chosen = set(steps)
    return [record for record in memory.records if record.step in chosen]


def _left(record: Record, asked: Sequence[str]) -> list[str]:
    """What is still to be done of a checkpoint."""
    return [label for label in asked if label not in record.settled]


def _next_job(left: Sequence[str]) -> list[str]:
    """What one Job does of it: all tasks together, for the harness loads the model once; an analysis alone."""
    tasks = [label for label in left if not label.startswith(ANALYSIS)]
    return tasks or list(left[:1])


def _num_free(case: Case, stored: Memory, num_there: int, max_running: int) -> int:
    """How many Jobs may be made: none before the status says that evaluations are looked for."""
    if case.is_suspend_asked or not stored.labels:
        return 0
    return max(0, max_running - num_there)


def _wait(jobs: _Jobs, *, is_noted: bool, is_open: bool) -> float | None:
    if jobs.ended or (is_open and not is_noted):
        return SOON_SECONDS
    if jobs.deleted or any(job.is_losing_pod for job in jobs.busy):
        return GOING_SECONDS
    return POLL_SECONDS if jobs.busy or is_open else None


def _condition(case: Case, phase: Phase, counts: dict[str, int], memory: Memory) -> dict[str, Any]:
    """What a person should know of the evaluations."""
    status, reason, message = _said(case, phase, counts, memory)
    before = condition(case.status, "Evaluated")
    return stated(before, "Evaluated", status, reason, message, case.run["metadata"]["generation"], case.seen.now)


def _said(
    case: Case, phase: Phase, counts: dict[str, int], memory: Memory
) -> tuple[Literal["True", "False", "Unknown"], str, str]:
    where = f"{counts['done']} of {counts['due']} checkpoints are evaluated"
    if counts["running"] or counts["waiting"]:
        where += f", {counts['running']} running, {counts['waiting']} waiting"
    if case.is_suspend_asked and counts["done"] < counts["due"]:
        return "Unknown", "EvaluationsHeld", f"{where}; the run is suspended, and its evaluations with it"
    if case.seen.evaluation_troubles and counts["running"]:
        trouble = case.seen.evaluation_troubles[0]
        return "False", trouble.reason, f"{trouble.message}; {ADVICE[trouble.reason]} ({where})"
    if _misses_checkpoints(case, memory, phase):
        last = memory.records[-1].step if memory.records else -1
        heard = f"{where}; the last checkpoint that the operator heard of is at step {last:,}: it was away at the end"
        if _may_ask(case, memory, phase):
            return "Unknown", "CheckpointsUnknown", f"{heard}; an evaluation of that one tells of those after it"
        reason, message = memory.failures.get(last, ("", ""))
        failed = f"; a pod was asked for them and failed: {reason}: {message}; {TRY_AGAIN}" if reason else ""
        return "False", "CheckpointsUnknown", f"{heard}{failed or '; evaluate them with llm360 eval'}"
    if memory.failures:
        step, (reason, message) = max(memory.failures.items())
        what = f"{counts['failed']} failed, the newest at step {step:,}: {reason}: {message}"
        return "False", "EvaluationFailed", f"{where}; {what}; {TRY_AGAIN}"
    if counts["done"] == counts["due"] and phase in FINAL:
        return "True", "EvaluationsComplete", where
    if counts["waiting"] and not counts["running"] and case.seen.evaluation_slots == 0:
        return "Unknown", "WaitsForOthers", f"{where}; the operator's bound for all runs is reached"
    return "Unknown", "Evaluating", where


ADVICE = {
    "ImagePullFailed": "see that cluster.image is right and that the nodes may pull it",
    "SecretMissing": "create what it names in the run's namespace, or correct storage.secretRef",
    "PodCrashes": "see the pod's log with kubectl logs",
    "Unschedulable": "give the pool a node (kubectl label node NODE llm360.ai/eval=true), or change evaluation's"
    " nodeSelector, tolerations, gpus, cpus and memory",
}
