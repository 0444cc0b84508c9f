"""kopf's part: it watches, and each event only asks for a round of the run that it is about.

kopf drops the event of a handler that fails, so nothing here can fail, and nothing depends on an event: a round
reads everything afresh, and asks for the next one itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from llm360_operator.names import RUN_LABEL, Key

CHILDREN = (("ray.io", "v1", "rayclusters"), ("ray.io", "v1", "rayjobs"), ("batch", "v1", "jobs"))


def register(registry: kopf.OperatorRegistry, add: Callable[[Key], None]) -> None:
    """Watch runs and their children.

    Args:
        registry: kopf's.
        add: Asks for a round.
    """

    def on_run(event: Mapping[str, Any], **_: Any) -> None:
        if is_news(event):
            metadata = event["object"]["metadata"]
            add(Key(metadata["namespace"], metadata["name"]))

    def on_child(event: Mapping[str, Any], **_: Any) -> None:
        metadata = event["object"]["metadata"]
        add(Key(metadata["namespace"], metadata["labels"][RUN_LABEL]))

    kopf.on.event("llm360.ai", "v1alpha1", "llm360runs", registry=registry)(on_run)
    for resource in CHILDREN:
        kopf.on.event(*resource, labels={RUN_LABEL: kopf.PRESENT}, registry=registry)(on_child)


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
