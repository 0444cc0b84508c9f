"""What a run's workers need of Ray against what Ray has.

Ray waits for ever for what it lacks. On one machine nothing more will come, so the run is refused at once; on a
cluster nodes may join at any time, so it waits, and says for what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import ray
from ray.util.placement_group import placement_group_table

from llm360.errors import InputError
from llm360.report.text import counted
from llm360.spec import ResolvedRun
from llm360_trainer.prepare.waiting import Waiting, describe_resources

UNPLACED = ("PENDING", "RESCHEDULING")


def rank_cpus(run: ResolvedRun) -> int:
    """CPUs that Ray sets aside for a rank: a pod's, shared by the ranks of its GPUs, and at least one."""
    workers = run.spec.cluster.workers
    return max(1, int(workers.cpus / max(1, workers.gpus)))


def local_cpus(run: ResolvedRun, cores: int) -> int:
    """CPUs that a Ray on one machine counts: its cores, or more where ranks have to share them."""
    return max(cores, rank_cpus(run) * run.spec.cluster.world_size)


def asked_of_rank(run: ResolvedRun) -> dict[str, float]:
    """What Ray must have free on one node for a rank."""
    gpus = {"GPU": 1.0} if run.spec.cluster.workers.device == "cuda" else {}
    return gpus | {"CPU": float(rank_cpus(run))}


def check_gpus(run: ResolvedRun, found: int) -> None:
    """See that a machine has the GPUs of all ranks.

    Args:
        run: The specification.
        found: GPUs of the machine.

    Raises:
        InputError: it has not.
    """
    workers, asked = run.spec.cluster.workers, run.spec.cluster.world_size
    if workers.device != "cuda" or found >= asked:
        return
    instead = "train on CPUs with --set cluster.workers.device=cpu --set cluster.workers.gpus=0"
    if found:
        instead = "lower cluster.workers.replicas or cluster.workers.gpus"
    raise InputError(
        f"this run asks for {counted(asked, 'GPU')} (cluster.workers: device cuda,"
        f" {counted(workers.replicas, 'replica')} of {counted(workers.gpus, 'GPU')}), but this machine has {found};"
        f" {instead}, or name a Ray cluster with --address",
        reason="GpusMissing",
    )


def waiting_for_workers(
    run: ResolvedRun,
    say: Callable[[str], object],
    *,
    is_waiting: Callable[[], bool] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Waiting:
    """Says what the workers of a run on a cluster wait for.

    Args:
        run: The specification.
        say: Takes a sentence for a person.
        is_waiting: Whether Ray has no place for the workers yet.
        clock: Monotonic seconds.
    """

    def describe(seconds: float) -> str:
        return describe_waiting(run, seconds, ray.cluster_resources(), ray.available_resources())

    return Waiting(describe, say, is_waiting or has_unplaced_workers, clock=clock)


def has_unplaced_workers() -> bool:
    """Whether Ray has no place yet for the workers that this process's job started."""
    job = ray.get_runtime_context().get_job_id()
    # The id of a group of places ends in that of the job that asked for them.
    return any(id_.endswith(job) and group["state"] in UNPLACED for id_, group in placement_group_table().items())


def describe_waiting(run: ResolvedRun, seconds: float, there: Mapping[str, float], free: Mapping[str, float]) -> str:
    """One sentence of what is asked, and what the cluster has.

    Args:
        run: The specification.
        seconds: How long it has waited.
        there: The cluster's resources.
        free: Those of them that nobody uses.
    """
    asked = asked_of_rank(run)
    each = " and ".join(counted(int(number), kind) for kind, number in asked.items())
    has = describe_resources(asked, there, free)
    workers = counted(run.spec.cluster.world_size, "worker")
    return (
        f"waiting for {seconds:.0f} s for {workers} with {each} each; the cluster has {has}; the run goes on when nodes"
        " join or become free, or stop it and change cluster.workers"
    )
