"""Field types that entries and manifests share: digests, keys, and the strict base of both."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from llm360.canonical import DIGEST_PATTERN

Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]
"""`sha256:` and 64 lower-case hex digits."""

Uid = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
"""32 hex digits that make one append one of a kind."""

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""A number of steps, tokens, rows or bytes: whole, not negative, exact in every JSON reader."""

AttemptNumber = Annotated[int, Field(ge=1, lt=2**31)]
"""Attempts count from 1."""


def _is_inside(key: str) -> str:
    """Refuse keys that lead out of the folder they are relative to: what is listed may be deleted by `prune`."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise ValueError(f"{key!r} is not a relative key: no empty, '.' or '..' parts, no backslashes")
    return key


Key = Annotated[str, StringConstraints(min_length=1, max_length=900), AfterValidator(_is_inside)]
"""A '/'-separated key, relative, never leading out of its folder."""


class StrictModel(BaseModel):
    """Frozen, and refuses fields it does not know: what is read is exactly what is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")
