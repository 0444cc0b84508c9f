"""What an attempt ran on, as the ledger binds it."""

from __future__ import annotations

import json
from typing import Any

from llm360.canonical import sha256_digest
from llm360.errors import IntegrityError
from llm360.release.layout import environment_key
from llm360.storage.base import Storage


def load_environment(storage: Storage, attempt: int, digest: str) -> dict[str, Any]:
    """The content of an attempt's `environment/aNNN.json`.

    Args:
        storage: Rooted at the release.
        attempt: Its number.
        digest: From an entry of the attempt.

    Raises:
        IntegrityError: it is not what the ledger names.
        ValueError: it is no JSON.
        StorageError: it cannot be read.
    """
    key = environment_key(attempt)
    data = storage.get(key)
    if (found := sha256_digest(data)) != digest:
        raise IntegrityError(f"'{key}' has the digest {found}, but the ledger names {digest}")
    environment: dict[str, Any] = json.loads(data)
    return environment
