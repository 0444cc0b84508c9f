"""What the API server was asked: its audit log, read as requests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testbed.control_plane import AUDIT_LOG


@dataclass(frozen=True)
class Request:
    """One request that the API server has answered.

    user: who asked, "" where the server refused before it knew (no credentials, or an account that is gone).
    resource: plural, with the subresource after a slash; "" for a path that names no object, like /healthz.
    code: HTTP status of the answer, 0 where none was given.
    """

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int


def requests(log: Path = AUDIT_LOG) -> list[Request]:
    """Every request of the audit log, oldest first; a line that is still being written is left out."""
    return [_request(json.loads(line)) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _request(event: dict[str, Any]) -> Request:
    target = event.get("objectRef", {})
    return Request(
        user=event.get("user", {}).get("username", ""),
        verb=event["verb"],
        resource="/".join(filter(None, map(target.get, ("resource", "subresource")))),
        namespace=target.get("namespace", ""),
        name=target.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
    )
