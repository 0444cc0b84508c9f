"""kopf's part: it watches; an event goes into the cache, and if it is news, asks for a round of the run it is about.

kopf drops the event of a handler that fails, so nothing here can fail, and nothing depends on an event: a run is
looked at by requests every few minutes, too, and a round asks for the next one itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import kopf

from llm360.spec.crd import RUN_LABEL
from llm360_operator.cache import RUN, Cache
from llm360_operator.names import Key

CHILDREN = {
    "RayCluster": ("ray.io", "v1", "rayclusters"),
    "RayJob": ("ray.io", "v1", "rayjobs"),
    "Job": ("batch", "v1", "jobs"),
}


log = logging.getLogger(__name__)

KUBERAY_SECONDS = 10.0
"""How often an operator that began without KubeRay looks whether it has come."""


async def watch(kopf_runs: Callable[[], Coroutine[Any, Any, None]], has_kuberay: Callable[[], Awaitable[bool]]) -> None:
    """Run kopf, and begin it anew once KubeRay's kinds have come.

    kopf looks which kinds there are when a definition changes, but the API server may list a new kind only a moment
    later: then it would never be watched, and the runs would go on by asking every few seconds alone.

    Args:
        kopf_runs: Runs kopf until it is cancelled.
        has_kuberay: Whether the API server has KubeRay's kinds now; False where that cannot be said.
    """
    while True:
        had_kuberay = await has_kuberay()
        running = asyncio.create_task(kopf_runs(), name="kopf")
        try:
            while not had_kuberay and not running.done():
                await asyncio.wait({running}, timeout=KUBERAY_SECONDS)
                if await has_kuberay():
                    break
            if had_kuberay or running.done():
                return await running
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
        log.info("KubeRay was installed; its objects are watched from now on")


class NoDifferences(kopf.DiffBaseStorage):
    """kopf's memory of objects as they were, left empty: else it copies each object of each event several times.

    It serves handlers of changes, of which there are none here.
    """

    def build(self, **_: Any) -> kopf.BodyEssence:
        """Nothing of an object is compared."""
        return kopf.BodyEssence({})

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        """Nothing was stored."""
        return None

    def store(self, **_: Any) -> None:
        """Nothing is stored."""


def register(registry: kopf.OperatorRegistry, cache: Cache, add: Callable[[Key], None]) -> None:
    """Watch runs and their children.

    Args:
        registry: kopf's.
        cache: Takes each event.
        add: Asks for a round.
    """

    async def on_run(event: Mapping[str, Any], **_: Any) -> None:  # kopf runs what is not async in threads
        if cache.take(RUN, event) and is_news(event):
            add(Key.of(event["object"]))

    async def on_child(event: Mapping[str, Any], child: str, **_: Any) -> None:
        if cache.take(child, event):
            metadata = event["object"]["metadata"]
            add(Key(metadata["namespace"], metadata["labels"][RUN_LABEL]))

    kopf.on.event("llm360.ai", "v1alpha1", "llm360runs", registry=registry)(on_run)
    for kind, resource in CHILDREN.items():
        handler = functools.partial(on_child, child=kind)
        kopf.on.event(*resource, labels={RUN_LABEL: kopf.PRESENT}, id=kind, registry=registry)(handler)


def is_news(event: Mapping[str, Any]) -> bool:
    """Whether a run's event is more than the echo of a status that was just written."""
    run = event["object"]
    status = run.get("status") or {}
    return (
        event["type"] in (None, "DELETED")
        or "deletionTimestamp" in run["metadata"]
        or status.get("observedGeneration") != run["metadata"].get("generation")
        or "phase" not in status
    )
