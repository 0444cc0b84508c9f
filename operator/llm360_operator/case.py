"""A run as it stands before a round, and the words in which a round's decision is said.

There are two actions, to create a child and to delete one. What the release holds is never touched from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llm360.spec.status import Phase
from llm360_operator.names import cluster_name, job_name, preflight_name
from llm360_operator.plan import Plan
from llm360_operator.seen import Job, Seen, read_time
from llm360_operator.sharing import Share
from llm360_operator.verdict import Verdict, condition


@dataclass(frozen=True)
class Settings:
    """What the operator was started with.

    Attributes:
        operator_image: Its own, for preflight.
        trainer_image: Of head, workers and evaluations where a run names none.
        max_evaluations: Most evaluation pods of all runs at a time; None: no bound.
        namespaces: Whose runs are taken care of; empty: all.
    """

    operator_image: str
    trainer_image: str
    max_evaluations: int | None = None
    namespaces: tuple[str, ...] = ()


@dataclass(frozen=True)
class Create:
    """Make an object that is not there."""

    manifest: dict[str, Any]


@dataclass(frozen=True)
class Delete:
    """Remove an object and everything below it; by force: without waiting for a node to say that it is gone."""

    kind: str
    name: str
    is_forced: bool = False


Action = Create | Delete
Memory = tuple[tuple[str, Any], ...]
"""Fields of the status, with their new values; None takes one away."""


@dataclass(frozen=True)
class Decision:
    """What a round comes to.

    Attributes:
        actions: To be done in their order, before the status is written.
        status: The whole new status.
        wait: Seconds until the run is looked at again, if nothing happens before; None: not until something does.
        evaluations: More actions, which must not keep the others waiting: where one fails, the round goes on.
        share: What the run has of the evaluations that the operator allows; None: as before.
    """

    actions: tuple[Action, ...]
    status: dict[str, Any]
    wait: float | None
    evaluations: tuple[Action, ...] = ()
    share: Share | None = None


@dataclass(frozen=True)
class Step:
    """What a rule says."""

    verdict: Verdict
    actions: tuple[Action, ...] = ()
    wait: float | None = None
    memory: Memory = ()


@dataclass(frozen=True)
class Case:
    """A run as it stands before a round."""

    run: dict[str, Any]
    seen: Seen
    plan: Plan
    settings: Settings

    @property
    def name(self) -> str:
        """The run's."""
        return str(self.run["metadata"]["name"])

    @property
    def status(self) -> dict[str, Any]:
        """The status as the last round left it: all that is remembered."""
        return dict(self.run.get("status") or {})

    @property
    def phase(self) -> Phase:
        """As the last round left it."""
        phase: Phase = self.status.get("phase", "Pending")
        return phase

    @property
    def is_suspend_asked(self) -> bool:
        """Whether the user wants the run to hold; read from the object itself, which may be wrong elsewhere."""
        return self.run["spec"].get("suspend") is True

    @property
    def newest_job(self) -> Job | None:
        """The job of the newest submission, if it is still there."""
        return next((job for job in self.seen.jobs if job.number == self.submission), None)

    @property
    def live_jobs(self) -> tuple[Job, ...]:
        """Jobs whose end is not known."""
        return tuple(job for job in self.seen.jobs if job.state == "Active")

    @property
    def submission(self) -> int:
        """Number of the newest job, whether it is still there or not."""
        return max(int(self.status.get("submission", 0)), *(job.number for job in self.seen.jobs), 0)

    @property
    def has_begun(self) -> bool:
        """Whether a job was ever submitted."""
        return self.submission > 0

    @property
    def is_changed(self) -> bool:
        """Whether the specification was changed since the last round."""
        return bool(self.status.get("observedGeneration") != self.run["metadata"]["generation"])

    def since(self, kind: str) -> datetime:
        """When a condition last changed; now, where it is not there."""
        return read_time(condition(self.status, kind).get("lastTransitionTime")) or self.seen.now

    def delete_jobs(self) -> tuple[Action, ...]:
        """End what is running; KubeRay asks the driver to stop."""
        return tuple(Delete("RayJob", job_name(self.name, job.number)) for job in self.live_jobs if not job.is_deleting)

    def delete_old_jobs(self, kept: int) -> tuple[Action, ...]:
        """Remove jobs that have ended, but for the newest few."""
        ended = [job for job in self.seen.jobs if job.state != "Active"]
        old = [job for job in ended[: max(0, len(ended) - kept)] if not job.is_deleting]
        return tuple(Delete("RayJob", job_name(self.name, job.number)) for job in old)

    def delete_cluster(self) -> tuple[Action, ...]:
        """Remove head and workers."""
        cluster = self.seen.cluster
        return (Delete("RayCluster", cluster_name(self.name)),) if cluster and not cluster.is_deleting else ()

    def delete_lost_pods(self) -> tuple[Action, ...]:
        """Give up pods on a node that does not answer.

        KubeRay makes no other in their place while they are there. What may still run on that node does no harm: the
        driver that goes on has claimed the release for itself.
        """
        return tuple(Delete("Pod", name, is_forced=True) for name in self.seen.lost_pods)

    def delete_preflight(self) -> tuple[Action, ...]:
        """Remove the preflight Job."""
        job = self.seen.preflight
        return (Delete("Job", preflight_name(self.name)),) if job and not job.is_deleting else ()
