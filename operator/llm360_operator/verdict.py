"""From a phase to conditions, by one table: a status that contradicts itself cannot be written down.

A verdict says where a run stands and why. Its phase fixes all conditions; the exceptions have names: a run that is
stuck does not progress, one whose driver is silent may or may not, and one whose object is wrong is not ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llm360.spec.status import CONDITION_TYPES, MAX_MESSAGE, ConditionType, Phase
from llm360_operator.seen import write_time

# Phase: Ready, Progressing, Suspended, Succeeded.
CONDITIONS: dict[Phase, tuple[str, str, str, str]] = {
    "Pending": ("False", "True", "False", "Unknown"),
    "Preflight": ("False", "True", "False", "Unknown"),
    "Queued": ("False", "False", "False", "Unknown"),
    "Starting": ("False", "True", "False", "Unknown"),
    "Preparing": ("True", "True", "False", "Unknown"),
    "Training": ("True", "True", "False", "Unknown"),
    "Recovering": ("False", "True", "False", "Unknown"),
    "Suspending": ("False", "False", "Unknown", "Unknown"),
    "Suspended": ("False", "False", "True", "Unknown"),
    "Succeeded": ("True", "False", "False", "True"),
    "Failed": ("False", "False", "False", "False"),
}

_QUIET = {
    ("Suspended", "False"): ("NotSuspended", "the run is not suspended"),
    ("Succeeded", "Unknown"): ("NotFinished", "the run is not over"),
}
"""Conditions that have nothing to add to what the others say."""

FINAL: tuple[Phase, ...] = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Verdict:
    """Where a run stands.

    Attributes:
        phase: In one word.
        reason: The cause, in one word; `docs/runbooks/conditions.md` has a section for each.
        message: What is the case and what to do.
        is_stuck: Nothing moves until somebody, or something, outside acts.
        is_silent: The driver does not answer: it may be progressing.
        is_invalid: The object asks for something that cannot be; the last valid configuration holds.
        problem: Reason and message of what is wrong with the object of a run that is over: Ready says it, while
            Succeeded goes on saying how the run ended.
    """

    phase: Phase
    reason: str
    message: str
    is_stuck: bool = False
    is_silent: bool = False
    is_invalid: bool = False
    problem: tuple[str, str] | None = None

    def conditions(self, before: list[dict[str, Any]], generation: int, now: datetime) -> list[dict[str, Any]]:
        """The conditions, each with the time at which its status last changed.

        Args:
            before: The conditions as they stand in the object.
            generation: Of the specification that this was decided on.
            now: The time.
        """
        old = {condition["type"]: condition for condition in before}
        conditions = []
        for kind, usual in zip(CONDITION_TYPES, CONDITIONS[self.phase], strict=True):
            status = self._excepted(kind, usual)
            reason, message = _QUIET.get((kind, status), (self.reason, self.message))
            if kind == "Ready" and self.problem is not None:
                reason, message = self.problem
            conditions.append(stated(old.get(kind, {}), kind, status, reason, message, generation, now))
        return conditions

    def _excepted(self, kind: str, status: str) -> str:
        """What the table says, but for the named exceptions."""
        if kind == "Progressing" and status == "True":
            return "False" if self.is_stuck else "Unknown" if self.is_silent else status
        if kind == "Ready" and (self.is_stuck or self.is_invalid):
            return "False"
        return status


def stated(
    before: Mapping[str, Any],
    kind: ConditionType,
    status: str,
    reason: str,
    message: str,
    generation: int,
    now: datetime,
) -> dict[str, Any]:
    """A condition as it is written down.

    Args:
        before: The same one as it stands in the object, or nothing.
        kind: Its type.
        status: Whether it holds.
        reason: The cause, in one word.
        message: What is the case and what to do.
        generation: Of the specification that this is said of.
        now: The time; it counts where the status is another than before.
    """
    return {
        "type": kind,
        "status": status,
        "reason": reason[:128],
        "message": message[:MAX_MESSAGE],
        "lastTransitionTime": before["lastTransitionTime"] if before.get("status") == status else write_time(now),
        "observedGeneration": generation,
    }


def condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """A condition of a run's status, or nothing."""
    return next((entry for entry in status.get("conditions") or [] if entry["type"] == kind), {})


_EXPECTED = (
    "ClusterCreated", "ClusterReplaced", "DriverStarts", "JobEnding", "JobSubmitted", "TriedAgain", "WaitsForPods",
    "WorkersStart",
)  # fmt: skip
"""What a run recovers by; all else that it recovers from is worth a warning."""


def is_warning(status: Mapping[str, Any]) -> bool:
    """Whether what a status says is bad news."""
    phase: Phase = status["phase"]
    if phase == "Recovering" and condition(status, "Ready")["reason"] not in _EXPECTED:
        return True
    usual = dict(zip(CONDITION_TYPES, CONDITIONS[phase], strict=True))
    return phase == "Failed" or any(
        usual[kind] == "True" and condition(status, kind)["status"] == "False" for kind in ("Ready", "Progressing")
    )
