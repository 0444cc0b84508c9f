"""A thin client of the cluster: kubectl and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from testbed import build
from testbed.errors import TestbedError
from testbed.layout import KUBECONFIG
from testbed.process import run, wait_until

Object = dict[str, Any]
NOT_FOUND = "(NotFound)"


def kubectl(*arguments: str, stdin: str | None = None) -> str:
    """Run kubectl as the cluster's administrator."""
    return run([build.kubectl(), f"--kubeconfig={KUBECONFIG}", *arguments], stdin=stdin)


def apply(objects: Iterable[Object]) -> None:
    """Create or change objects, by the API server's own merge."""
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(items))


def apply_text(manifest: str) -> None:
    """The same with YAML documents."""
    kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifest)


def get(kind: str, name: str, namespace: str = "default") -> Object | None:
    """An object, or None where there is none."""
    try:
        return dict(json.loads(kubectl("get", kind, name, f"--namespace={namespace}", "--output=json")))
    except TestbedError as error:
        if NOT_FOUND in str(error):
            return None
        raise


def find(kind: str, namespace: str | None = None, selector: str = "") -> list[Object]:
    """Objects of a kind, in one namespace or all, by labels."""
    where = [f"--namespace={namespace}"] if namespace else ["--all-namespaces"]
    return list(json.loads(kubectl("get", kind, *where, f"--selector={selector}", "--output=json"))["items"])


def condition(found: Object | None, kind: str) -> bool:
    """Whether the object has the condition with status True."""
    conditions = (found or {}).get("status", {}).get("conditions", [])
    return any(each["type"] == kind and each["status"] == "True" for each in conditions)


def is_ready_deployment(name: str, namespace: str) -> bool:
    """Whether all of a Deployment's pods are ready, at its newest generation."""
    found = get("deployment", name, namespace)
    if found is None:
        return False
    status = found.get("status", {})
    wanted = found["spec"].get("replicas", 1)
    is_seen = status.get("observedGeneration") == found["metadata"]["generation"]
    return bool(is_seen and status.get("readyReplicas", 0) == status.get("updatedReplicas", 0) == wanted)


def wait_for_deployment(name: str, namespace: str, seconds: float) -> None:
    """Wait until the Deployment is ready; says why its pods are not if they are not in time."""
    try:
        wait_until(lambda: is_ready_deployment(name, namespace), f"deployment {namespace}/{name}", seconds)
    except TestbedError as error:
        raise TestbedError(f"{error}\n{kubectl('describe', 'pods', f'--namespace={namespace}')[-3000:]}") from None
