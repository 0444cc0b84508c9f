"""What an attempt ran on, written to `environment/aNNN.json`: code, packages, libraries, devices, operations.

A reader who wants the same bits rebuilds this. Nothing secret is recorded: no environment variables, no
credentials, no addresses.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import llm360
import llm360_trainer
from llm360_trainer.train.plan import GroupInfo

BUILD_FILE = Path("/etc/llm360/build.json")
"""Images carry it: commit, uv.lock digest and source tree digest, baked in when they were built."""


def describe_environment(group: GroupInfo, operations: dict[str, Any], image: str | None) -> dict[str, Any]:
    """The content of `environment/aNNN.json` as a JSON value.

    Args:
        group: The worker group as its ranks describe themselves.
        operations: The part of the specification that may change from attempt to attempt.
        image: Image reference with its digest, or None where the run is not in one.
    """
    return {
        "format": "llm360-environment/1",
        "code": describe_code(),
        "image": image or "unpinned",
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": installed_packages(),
        "libraries": dict(sorted(group.libraries.items())),
        "world_size": group.world_size,
        "ranks": list(group.ranks),
        "operations": operations,
    }


def describe_code() -> dict[str, Any]:
    """Version, commit and digest of the source that is running."""
    code: dict[str, Any] = {
        "version": llm360.__version__,
        "source_digest": source_digest([Path(llm360.__file__).parent, Path(llm360_trainer.__file__).parent]),
    }
    if BUILD_FILE.is_file():
        return {**code, **json.loads(BUILD_FILE.read_text())}
    return code | git_commit(Path(llm360.__file__).parent)


def git_commit(folder: Path) -> dict[str, Any]:
    """Commit of the checkout that holds `folder` and whether it was changed since, if it is one."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "modified": bool(git("status", "--porcelain", "--", "."))}
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "modified": None}


def source_digest(packages: Iterable[Path]) -> str:
    """sha256 over the names and bytes of every Python and YAML file of the packages, in sorted order."""
    total = hashlib.sha256()
    for package in packages:
        for path in sorted(p for p in package.rglob("*") if p.suffix in {".py", ".yaml"} and p.is_file()):
            total.update(f"{package.name}/{path.relative_to(package).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{total.hexdigest()}"


def installed_packages() -> dict[str, str]:
    """Every installed distribution and its version, sorted by name."""
    found = {dist.metadata["Name"]: dist.version for dist in importlib.metadata.distributions()}
    return dict(sorted(found.items()))
