"""The Kubernetes API, as little of it as the operator needs: get, list, create, delete, write a status.

The only module that talks to the API server. Objects are plain dictionaries, as JSON has them.
"""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

Object = dict[str, Any]

# kind: path of its API, plural.
KINDS = {
    "LLM360Run": ("apis/llm360.ai/v1alpha1", "llm360runs"),
    "RayCluster": ("apis/ray.io/v1", "rayclusters"),
    "RayJob": ("apis/ray.io/v1", "rayjobs"),
    "Job": ("apis/batch/v1", "jobs"),
    "ConfigMap": ("api/v1", "configmaps"),
    "Pod": ("api/v1", "pods"),
    "NetworkPolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "Event": ("api/v1", "events"),
}

REQUEST_SECONDS = 30.0
CONNECTIONS = 32
"""At a time; each holds the buffers of its encryption, and there are as many rounds at a time (`LLM360_PARALLEL`)."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


@dataclass(frozen=True)
class Connection:
    """Where the API server is and who we are; `verify` is False only where a kubeconfig says so."""

    server: str
    token: str | None
    verify: ssl.SSLContext | bool


class ApiError(Exception):
    """The API server refused, or gave no answer (status 0)."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(f"{reason} ({status}): {message}")
        self.status, self.reason, self.message = status, reason, message


class KindMissingError(ApiError):
    """The API server does not know the kind: its CustomResourceDefinition is not installed."""


class Api:
    """Requests to the API server.

    Args:
        connect: Reads how to reach it; called again when a token has run out.
        count: Told the verb, the kind and the answer's code of each request.
    """

    def __init__(self, connect: Callable[[], Connection], count: Callable[[str, str, int], None]) -> None:
        self._connect, self._count = connect, count
        self._connection = connect()
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """An object, or None where there is none.

        Raises:
            KindMissingError: there are no objects of that kind at all.
            ApiError: refused, or no answer.
        """
        try:
            found: Object = await self._request("GET", "get", kind, namespace, name)
        except KindMissingError:
            raise
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def knows(self, kind: str) -> bool:
        """Whether the API server has objects of a kind; its definition may be installed at any time.

        Raises:
            ApiError: refused, or no answer.
        """
        group, plural = KINDS[kind]
        status, text = await self._authorized("GET", f"/{group}", None, None)
        self._count("discover", kind, status)
        try:
            return any(resource["name"] == plural for resource in _answer(status, text)["resources"])
        except KindMissingError:
            return False

    async def list(self, kind: str, namespace: str, selector: str) -> list[Object]:
        """The objects with the labels of a selector; without a namespace those of all."""
        found = await self._request("GET", "list", kind, namespace, params={"labelSelector": selector})
        return list(found["items"])

    async def create(self, manifest: Object) -> Object | None:
        """Make an object, and return it as it is now; None where one of that name is there already."""
        kind, namespace = manifest["kind"], manifest["metadata"]["namespace"]
        try:
            made: Object = await self._request("POST", "create", kind, namespace, body=manifest)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return None
            raise
        return made

    async def delete(self, kind: str, namespace: str, name: str, *, is_forced: bool = False) -> None:
        """Remove an object after everything below it, by force at once; one that is gone is no error."""
        options: Object = {"gracePeriodSeconds": 0} if is_forced else {"propagationPolicy": "Foreground"}
        try:
            await self._request("DELETE", "delete", kind, namespace, name, body=options)
        except ApiError as error:
            if error.status != 404:
                raise

    async def patch_status(self, run: Object, changes: Mapping[str, Any]) -> Object:
        """Change a run's status by a merge patch (`merge_patch`), if the run is still the one that was read.

        Returns:
            The run as it is now.
        """
        metadata = run["metadata"]
        body = {"metadata": {"resourceVersion": metadata["resourceVersion"]}, "status": changes}
        name = f"{metadata['name']}/status"
        changed: Object = await self._request("PATCH", "patch", run["kind"], metadata["namespace"], name, body=body)
        return changed

    async def _request(
        self,
        method: str,
        verb: str,
        kind: str,
        namespace: str,
        name: str = "",
        *,
        body: Any = None,
        params: dict[str, str] | None = None,
    ) -> Any:
        group, plural = KINDS[kind]
        parts = [] if verb == "list" and not namespace else [namespace]
        for part in (*parts, *([] if verb in ("list", "create") else [name.removesuffix("/status")])):
            if not _NAME.fullmatch(part):
                # Names come from objects too; none may lead our rights to another place.
                raise ApiError(400, "InvalidName", f"'{part}' is no name of a {kind} or a namespace")
        where = ["namespaces", namespace] if namespace else []
        path = "/" + "/".join(filter(None, [group, *where, plural, name]))
        status, text = await self._authorized(method, path, body, params)
        self._count(verb, kind, status)
        return _answer(status, text)

    async def _authorized(self, method: str, path: str, body: Any, params: dict[str, str] | None) -> tuple[int, str]:
        status, text = await self._send(method, path, body, params)
        if status == 401:
            # Tokens of service accounts live an hour; the file holds the next one.
            self._connection = self._connect()
            status, text = await self._send(method, path, body, params)
        return status, text

    async def _send(self, method: str, path: str, body: Any, params: dict[str, str] | None) -> tuple[int, str]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
            )
        connection = self._connection
        headers = {"Accept": "application/json", "User-Agent": "llm360-operator"}
        if connection.token:
            headers["Authorization"] = f"Bearer {connection.token}"
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = None if body is None else json.dumps(body)
        try:
            async with self._session.request(
                method, connection.server + path, data=data, params=params, headers=headers, ssl=connection.verify
            ) as response:
                return response.status, await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiError(
                0, "Unreachable", f"the API server gave no answer: {error or type(error).__name__}"
            ) from error


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes one object of another.

    Objects are merged at any depth, so what is to go has to be named with None; lists are replaced.

    >>> merge_patch({"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"c": 2, "e": [4]}})
    {'a': None, 'b': {'d': None, 'e': [4]}}
    """
    changed = [name for name in (*old, *(name for name in new if name not in old)) if old.get(name) != new.get(name)]
    return {
        name: merge_patch(old[name], new[name])
        if isinstance(old.get(name), Mapping) and isinstance(new.get(name), Mapping)
        else new.get(name)
        for name in changed
    }


def _answer(status: int, text: str) -> Any:
    """The object that was answered, or the refusal as an exception."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = {}
    if status < 400:
        return answer
    details = answer.get("details") or {}
    reason, message = answer.get("reason") or str(status), answer.get("message") or text[:500]
    if status == 404 and not details.get("name"):
        raise KindMissingError(status, "KindMissing", message)
    raise ApiError(status, reason, message)
