"""What to do next for a run: a pure function of the run and of what is seen of its children.

`reconcile` asks the rules (`rules`) in their order; the first that has something to say decides. A round that is cut
off anywhere is simply taken again. What is evaluated meanwhile is decided beside them (`evaluation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llm360_operator.case import Case, Decision, Settings
from llm360_operator.evaluation import evaluate
from llm360_operator.names import cluster_name
from llm360_operator.plan import Plan, make_plan
from llm360_operator.rules import FINAL_EXIT_CODES, is_judged, next_step
from llm360_operator.seen import Seen
from llm360_operator.verdict import FINAL, Verdict, condition

REFUSED_SECONDS = 30.0
"""When to try again what Kubernetes refused: a quota or a right may have been granted."""


def reconcile(run: dict[str, Any], seen: Seen, settings: Settings) -> Decision:
    """Decide the next step of a run.

    Args:
        run: The LLM360Run object as the API server has it.
        seen: Its children.
        settings: The operator's.
    """
    case = _without_cut_off(Case(run, seen, make_plan(run, seen.configs, settings.trainer_image), settings))
    step = next_step(case)
    verdict, plan = step.verdict, case.plan
    if plan.problem and verdict.phase not in FINAL and verdict.reason != plan.reason:
        # The last valid configuration goes on; that the object says something else must not stay unseen.
        message = f"{plan.problem}; until that is put right the run goes on as before ({verdict.message})"
        verdict = replace(verdict, reason=plan.reason, message=message, is_invalid=True)
    elif plan.problem and verdict.phase == "Failed":
        message = f"{plan.problem}; the run stays as it ended ({verdict.message})"
        verdict = replace(verdict, problem=(plan.reason, message))
    evaluated = evaluate(case, verdict.phase)
    status = _status(case, verdict, dict(step.memory) | evaluated.fields, evaluated.condition)
    actions = (*case.delete_lost_pods(), *step.actions)
    wait = min((each for each in (step.wait, evaluated.wait) if each is not None), default=None)
    return Decision(actions, status, wait, evaluated.actions, evaluated.share)


def _without_cut_off(case: Case) -> Case:
    """A run whose newest job was cut off from outside: that has not failed, and goes like one that still runs.

    Its pods gave way to others, or somebody removes it: what Ray then says of it is no attempt of the run. Where the
    driver itself has said that trying again changes nothing, that holds; so does what was counted before.
    """
    job, cluster = case.newest_job, case.seen.cluster
    if job is None or job.state != "Failed" or job.exit_code in FINAL_EXIT_CODES or is_judged(case, job):
        return case
    if not job.is_deleting and not (cluster is not None and cluster.is_suspended):
        return case
    jobs = tuple(replace(each, state="Active") if each is job else each for each in case.seen.jobs)
    return replace(case, seen=replace(case.seen, jobs=jobs))


def refused(run: dict[str, Any], seen: Seen, message: str, memory: Mapping[str, Any]) -> Decision:
    """The decision after Kubernetes would not take what was decided: to say so, and to try again later.

    Args:
        run: The LLM360Run object as the API server has it.
        seen: Its children.
        message: What was refused, and why.
        memory: Fields of the status that hold nevertheless.
    """
    case = Case(run, seen, Plan(None, "", is_pinned=False), Settings("", ""))
    advice = "see the operator's rights in the namespace, its quota, and its admission rules and webhooks"
    verdict = Verdict(case.phase, "Refused", f"{message}; {advice}", is_stuck=True)
    evaluated = dict(condition(case.status, "Evaluated")) or None
    return Decision((), _status(case, verdict, dict(memory), evaluated), REFUSED_SECONDS)


def _status(case: Case, verdict: Verdict, memory: dict[str, Any], evaluated: dict[str, Any] | None) -> dict[str, Any]:
    """The last round's status with what this round adds; a memory of None is forgotten."""
    status = case.status | memory
    generation = case.run["metadata"]["generation"]
    status["phase"] = verdict.phase
    conditions = verdict.conditions(status.get("conditions") or [], generation, case.seen.now)
    status["conditions"] = conditions + ([evaluated] if evaluated else [])
    status["observedGeneration"] = generation
    status["rayCluster"] = cluster_name(case.name) if case.seen.cluster is not None else None
    return {key: value for key, value in status.items() if value is not None}
