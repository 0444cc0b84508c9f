"""The run file of a release: the specification with which an attempt ran, put together again from what is recorded.

The ledger's genesis names the configuration, which is the run's identity; the entry of the attempt has the operations.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import unquote

from llm360.errors import InputError
from llm360.release.create import load_config
from llm360.release.entries import Attempt
from llm360.release.history import History
from llm360.spec import API_VERSION, KIND, ResolvedRun, identity_changes, resolve
from llm360.spec.layers import merge
from llm360.spec.resolution import MAX_NAME
from llm360.spec.run import RESOLVED
from llm360.storage.base import Storage


def recorded_run(storage: Storage, history: History, claim: Attempt) -> ResolvedRun:
    """The run as an attempt ran it; its identity is the release's.

    Args:
        storage: Rooted at the release.
        history: Of the release.
        claim: The attempt.

    Raises:
        InputError: this version of the program reads the configuration otherwise.
        IntegrityError: the configuration is not what the ledger names.
        StorageError: it cannot be read.
    """
    run = resolve(recorded_document(storage, history, claim))
    if changes := identity_changes(load_config(storage, history.config_digest), run.identity()):
        raise InputError(
            f"the release was made by another version of llm360, and this one reads its configuration otherwise:"
            f" {'; '.join(changes)}; use that version: environment/ of the release names it",
            reason="IdentityChanged",
        )
    return run


def find_attempt(history: History, number: int | None) -> Attempt:
    """The attempt of a number, or the newest.

    Raises:
        InputError: there is none.
    """
    if not history.attempts:
        raise InputError("no attempt of the run has begun yet, so nothing says with which settings it runs")
    known = {claim.attempt: claim for claim in history.attempts}
    if number is None:
        return history.attempts[-1]
    if number not in known:
        raise InputError(f"there is no attempt {number}; the ledger has {', '.join(map(str, known))}")
    return known[number]


def recorded_document(storage: Storage, history: History, claim: Attempt) -> dict[str, Any]:
    """The LLM360Run object of an attempt in JSON types, as recorded; its preset is not applied a second time.

    A run's name is recorded nowhere, so it is the last part of the address at which the release was written.

    Raises:
        IntegrityError: the configuration is not what the ledger names.
        StorageError: it cannot be read.
    """
    spec = merge(load_config(storage, history.config_digest), claim.operations)
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name_at(spec["storage"]["uri"]), "annotations": {RESOLVED: "true"}},
        "spec": spec,
    }


def name_at(uri: str) -> str:
    """A run's name made of the last part of an address.

    >>> name_at("s3://bucket/runs/Amber_7B/")
    'amber-7b'
    """
    last = unquote(uri.rstrip("/").rpartition("/")[2]).lower()
    return re.sub(r"[^a-z0-9]+", "-", last)[:MAX_NAME].strip("-") or "run"
