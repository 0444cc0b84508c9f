"""Reads what there is of a run, afresh each time: a few requests for objects by their names, at the same time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from llm360.spec.crd import RUN_LABEL
from llm360_operator.api import Api, KindMissingError, Object
from llm360_operator.names import EVALUATION_LABEL, base_config_name, cluster_name, preflight_name, status_url
from llm360_operator.seen import (
    Job,
    Seen,
    read_cluster,
    read_evaluation,
    read_job,
    read_lost_pods,
    read_preflight,
    read_troubles,
)

DRIVER_SECONDS = 3.0
DRIVER_MAX_BYTES = 4 * 1024 * 1024


class Observer:
    """Looks at runs.

    Args:
        api: The Kubernetes API.
        fetch: Reads a driver's `/status`, None where it does not answer; `fetch_status` but in tests.
    """

    def __init__(self, api: Api, fetch: Any = None) -> None:
        self._api, self._fetch = api, fetch or fetch_status

    async def observe(self, run: Object) -> Seen:
        """Everything that a decision about a run stands on.

        Raises:
            ApiError: the API server refused, or gave no answer.
        """
        namespace, name = run["metadata"]["namespace"], run["metadata"]["name"]
        status = run.get("status") or {}
        config_names = {base_config_name(name), status.get("config") or base_config_name(name)}
        (cluster, jobs, is_missing), preflight, evaluations, configs = await asyncio.gather(
            self._ray(namespace, name),
            self._api.get("Job", namespace, preflight_name(name)),
            self._evaluations(run),
            asyncio.gather(*(self._api.get("ConfigMap", namespace, config) for config in sorted(config_names))),
        )
        children = [child for child in (cluster, preflight, *configs, *jobs) if child is not None]
        foreign = tuple(_title(child) for child in children if not is_child(child, run))
        if foreign:
            return Seen(datetime.now(UTC), foreign=foreign, is_kuberay_missing=is_missing)
        seen_jobs = tuple(sorted(map(read_job, jobs), key=lambda job: job.number))
        pods: list[Object] = []
        if _wants_pods(status, cluster, preflight) or any(map(_wants_evaluation_pods, evaluations)):
            pods = await self._api.list("Pod", namespace, f"{RUN_LABEL}={name}")
        own_pods = [pod for pod in pods if EVALUATION_LABEL not in pod["metadata"]["labels"]]
        evaluation_pods = [pod for pod in pods if EVALUATION_LABEL in pod["metadata"]["labels"]]
        driver = None
        if cluster is not None and read_cluster(cluster).is_head_ready and _may_answer(status, seen_jobs):
            driver = await self._fetch(status_url(namespace, name))
        now = datetime.now(UTC)
        lost_pods = read_lost_pods(pods, now)
        return Seen(
            now=now,
            configs={config["metadata"]["name"]: config["data"]["run.json"].encode() for config in configs if config},
            preflight=read_preflight(preflight, own_pods) if preflight else None,
            cluster=read_cluster(cluster) if cluster else None,
            jobs=seen_jobs,
            troubles=read_troubles(own_pods),
            lost_pods=lost_pods,
            driver=driver,
            is_kuberay_missing=is_missing,
            evaluations=tuple(read_evaluation(job, evaluation_pods, lost_pods) for job in evaluations),
            evaluation_troubles=read_troubles(evaluation_pods),
        )

    async def _evaluations(self, run: Object) -> list[Object]:
        """The Jobs of its evaluations; none is made before the status says what is evaluated."""
        if not ((run.get("status") or {}).get("evaluation") or {}).get("tasks"):
            return []
        selector = f"{RUN_LABEL}={run['metadata']['name']},{EVALUATION_LABEL}"
        jobs = await self._api.list("Job", run["metadata"]["namespace"], selector)
        return sorted((job for job in jobs if is_child(job, run)), key=lambda job: str(job["metadata"]["name"]))

    async def _ray(self, namespace: str, name: str) -> tuple[Object | None, list[Object], bool]:
        """The RayCluster, the RayJobs, and whether KubeRay's kinds are missing."""
        try:
            cluster, jobs = await asyncio.gather(
                self._api.get("RayCluster", namespace, cluster_name(name)),
                self._api.list("RayJob", namespace, f"{RUN_LABEL}={name}"),
            )
        except KindMissingError:
            return None, [], True
        return cluster, jobs, False


def is_child(child: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether an object belongs to this very run, not to an earlier one of its name."""
    return any(owner["uid"] == run["metadata"]["uid"] for owner in child["metadata"].get("ownerReferences") or [])


def _title(child: Mapping[str, Any]) -> str:
    return f"{child['kind']} {child['metadata']['name']}" if "kind" in child else str(child["metadata"]["name"])


def _wants_pods(status: Mapping[str, Any], cluster: Object | None, preflight: Object | None) -> bool:
    """Whether pods may have something to tell: an answer, why they do not run, or why they do not go."""
    if preflight is not None and not (status.get("preflight") or {}).get("passed"):
        return True
    if cluster is None or cluster["spec"].get("suspend"):
        return False
    seen = read_cluster(cluster)
    if seen.is_deleting:
        return True
    wanted = sum(group.get("replicas") or 0 for group in cluster["spec"].get("workerGroupSpecs") or [])
    return not seen.is_head_ready or seen.ready_workers < wanted


def _wants_evaluation_pods(job: Object) -> bool:
    """Whether an evaluation's pods may have something to tell: how they ended, or why they do not run or go."""
    status = job.get("status") or {}
    return not (status.get("ready") or 0) or bool(status.get("terminating"))


def _may_answer(status: Mapping[str, Any], jobs: tuple[Job, ...]) -> bool:
    """Whether a driver is running, or is being stopped."""
    return any(job.state == "Active" for job in jobs) or status.get("phase") == "Suspending"


async def fetch_status(url: str) -> dict[str, Any] | None:
    """A driver's `/status`; None where it does not answer, in time, with something sensible."""
    try:
        timeout = aiohttp.ClientTimeout(total=DRIVER_SECONDS)
        # A driver is the user's program: it must not send the operator elsewhere, nor fill its memory.
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(url, allow_redirects=False) as response,
        ):
            if response.status != 200:
                return None
            body = bytearray()
            async for chunk in response.content.iter_any():
                body += chunk
                if len(body) > DRIVER_MAX_BYTES:
                    return None
            found = json.loads(body)
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
    return found if isinstance(found, dict) else None
