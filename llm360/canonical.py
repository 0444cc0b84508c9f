"""Canonical JSON and digests: the one way in which anything here is hashed.

RFC 8785 (JSON Canonicalization Scheme) fixes member order, number form and escapes, so that two programs
that hold the same value compute the same sha256. A digest is written `sha256:` + 64 lower-case hex digits.
"""

from __future__ import annotations

import hashlib
from typing import Any

import rfc8785

DIGEST_PREFIX = "sha256:"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
"""Form of a digest, in the syntax that Python, JSON Schema and the API server share."""


def canonical_json(value: Any) -> bytes:
    """Serialise a JSON value after RFC 8785.

    Raises:
        ValueError: the value holds a NaN, an infinity, an integer beyond 2**53 - 1 or a non-JSON type.
    """
    return rfc8785.dumps(value)


def sha256_digest(data: bytes | memoryview) -> str:
    """`sha256:` and the hex digest of the bytes."""
    return DIGEST_PREFIX + hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """The sha256 digest of a JSON value's canonical bytes."""
    return sha256_digest(canonical_json(value))
