"""Reads what there is of a run: from the cache, or by a few requests for objects by their names, at the same time.

Pods are asked for only while they may have something to tell; a driver is asked for its `/status` in each round.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import aiohttp

from llm360.spec.crd import RUN_LABEL
from llm360_operator.api import Api, KindMissingError, Object
from llm360_operator.cache import RUN, Cache, View
from llm360_operator.names import (
    EVALUATION_LABEL,
    Key,
    base_config_name,
    cluster_name,
    preflight_name,
    status_url,
)
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
        cache: Takes what a look finds.
        fetch: Reads a driver's `/status`, None where it does not answer; `fetch_status` but in tests.
    """

    def __init__(self, api: Api, cache: Cache, fetch: Any = None) -> None:
        self._api, self._cache, self._fetch = api, cache, fetch or fetch_status

    async def look(self, key: Key) -> View:
        """Ask the API server for a run and its children, and keep what it says up to date from now on.

        Raises:
            ApiError: the API server refused, or gave no answer.
        """
        view = self._cache.begin(key)
        run = await self._api.get(RUN, *key)
        if run is None:
            return view
        view.put(RUN, run)
        status = run.get("status") or {}
        config_names = {base_config_name(key.name), status.get("config") or base_config_name(key.name)}
        (cluster, jobs, view.is_kuberay_missing), preflight, evaluations, configs = await asyncio.gather(
            self._ray(key),
            self._api.get("Job", key.namespace, preflight_name(key.name)),
            self._evaluations(run),
            asyncio.gather(*(self._api.get("ConfigMap", key.namespace, config) for config in sorted(config_names))),
        )
        found: dict[str, list[Object | None]] = {
            "RayCluster": [cluster],
            "RayJob": [*jobs],
            "Job": [preflight, *evaluations],
            "ConfigMap": [*configs],
        }
        for kind, children in found.items():
            for child in children:
                if child is not None:
                    view.put(kind, child)
        self._cache.finish(view)
        return view

    async def observe(self, run: Object, view: View) -> Seen:
        """Everything that a decision about a run stands on.

        Raises:
            ApiError: the API server refused, or gave no answer.
        """
        namespace, name = Key.of(run)
        status = run.get("status") or {}
        cluster, preflight = view.get("RayCluster", cluster_name(name)), view.get("Job", preflight_name(name))
        jobs, configs = list(view.all("RayJob")), list(view.all("ConfigMap"))
        children = [child for child in (cluster, preflight, *configs, *jobs) if child is not None]
        foreign = tuple(_title(child) for child in children if not is_child(child, run))
        if foreign:
            return Seen(datetime.now(UTC), foreign=foreign, is_kuberay_missing=view.is_kuberay_missing)
        seen_jobs = tuple(sorted(map(read_job, jobs), key=lambda job: job.number))
        evaluations = _evaluations_of(run, view)
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
            configs={config["metadata"]["name"]: config["data"]["run.json"].encode() for config in configs},
            preflight=read_preflight(preflight, own_pods) if preflight else None,
            cluster=read_cluster(cluster) if cluster else None,
            jobs=seen_jobs,
            troubles=read_troubles(own_pods),
            lost_pods=lost_pods,
            driver=driver,
            is_kuberay_missing=view.is_kuberay_missing,
            evaluations=tuple(read_evaluation(job, evaluation_pods, lost_pods) for job in evaluations),
            evaluation_troubles=read_troubles(evaluation_pods),
        )

    async def _evaluations(self, run: Object) -> list[Object]:
        """The Jobs of its evaluations; none is made before the status says what is evaluated."""
        if not _has_tasks(run):
            return []
        namespace, name = Key.of(run)
        return await self._api.list("Job", namespace, f"{RUN_LABEL}={name},{EVALUATION_LABEL}")

    async def _ray(self, key: Key) -> tuple[Object | None, list[Object], bool]:
        """The RayCluster, the RayJobs, and whether KubeRay's kinds are missing."""
        try:
            cluster, jobs = await asyncio.gather(
                self._api.get("RayCluster", key.namespace, cluster_name(key.name)),
                self._api.list("RayJob", key.namespace, f"{RUN_LABEL}={key.name}"),
            )
        except KindMissingError:
            return None, [], True
        return cluster, jobs, False


def _evaluations_of(run: Object, view: View) -> list[Object]:
    """The Jobs of a run's evaluations that are known, by name."""
    if not _has_tasks(run):
        return []
    labelled = [job for job in view.all("Job") if EVALUATION_LABEL in (job["metadata"].get("labels") or {})]
    return sorted((job for job in labelled if is_child(job, run)), key=lambda job: str(job["metadata"]["name"]))


def _has_tasks(run: Object) -> bool:
    """Whether the status says what is evaluated."""
    return bool(((run.get("status") or {}).get("evaluation") or {}).get("tasks"))


def is_child(child: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Whether an object belongs to this very run, not to an earlier one of its name."""
    return any(owner["uid"] == run["metadata"]["uid"] for owner in child["metadata"].get("ownerReferences") or [])


def run_of(child: Mapping[str, Any]) -> Key | None:
    """The run that controls an object, None where none does: anybody may give our labels to an object."""
    metadata = child["metadata"]
    run = str((metadata.get("labels") or {}).get(RUN_LABEL))
    owners = metadata.get("ownerReferences") or []
    is_ours = any(owner.get("controller") and (owner["kind"], owner["name"]) == (RUN, run) for owner in owners)
    return Key(metadata["namespace"], run) if is_ours else None


def _title(child: Mapping[str, Any]) -> str:
    return f"{child['kind']} {child['metadata']['name']}"


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
    return any(job.state == "Active" for job in jobs) or "stopping" in status


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
