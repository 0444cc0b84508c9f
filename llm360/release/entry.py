"""One entry of the ledger as it is stored: `{seq, prev, uid, time, kind, …}` in canonical JSON.

Its name is the sha256 of the stored bytes; the next entry's `prev` holds that name. `time` is information,
only `seq` orders. `uid` is drawn once per append: it tells a writer whose answer was lost whether the entry
it finds is its own, also where another writer had the very same thing to say at the very same time.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from llm360.canonical import DIGEST_PATTERN, canonical_json, sha256_digest
from llm360.errors import IntegrityError
from llm360.release.checkpoint import first_problem
from llm360.release.entries import DRAFT, EntryDraft
from llm360.release.layout import ledger_key

_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z")
_UID = re.compile(r"[0-9a-f]{32}")


def new_uid() -> str:
    """32 random hex digits for one append."""
    return secrets.token_hex(16)


def utc_now() -> str:
    """The time as entries carry it: ISO 8601, UTC, microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True)
class Entry:
    """An entry at its place in the chain.

    Args:
        seq: Its number, from 0.
        prev: The name of the entry before it; None for the first.
        uid: 32 hex digits, one of a kind.
        time: ISO 8601, UTC; information only.
        body: What it says; one class per kind (entries.py).
    """

    seq: int
    prev: str | None
    uid: str
    time: str
    body: EntryDraft

    @property
    def kind(self) -> str:
        """The kind of entry."""
        return self.body.kind

    @property
    def key(self) -> str:
        """Where it is stored."""
        return ledger_key(self.seq)

    @cached_property
    def data(self) -> bytes:
        """The stored bytes."""
        frame = {"seq": self.seq, "prev": self.prev, "uid": self.uid, "time": self.time}
        return canonical_json(frame | self.body.model_dump(mode="json", exclude_none=True))

    @cached_property
    def name(self) -> str:
        """The sha256 digest of the stored bytes."""
        return sha256_digest(self.data)

    @classmethod
    def decode(cls, data: bytes, seq: int) -> Entry:
        """Read the entry stored at number `seq`.

        Raises:
            IntegrityError: it is not an entry of a known kind, not canonical, or carries another number.
        """
        key = ledger_key(seq)
        try:
            value = json.loads(data)
            if not isinstance(value, dict):
                raise ValueError(f"expected an object, found {type(value).__name__}")
            frame = {name: value.pop(name) for name in ("seq", "prev", "uid", "time")}
            _check_frame(frame)
            entry = cls(**frame, body=DRAFT.validate_python(value))
            # Not every JSON value has a canonical form: 2**60, NaN and half a surrogate pair have none.
            canonical = entry.data
        except KeyError as error:
            raise IntegrityError(f"{key} is not a ledger entry: field {error} is missing") from error
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"{key} is not a ledger entry: {first_problem(error)}") from error
        if canonical != data:
            raise IntegrityError(
                f"{key} is not stored in canonical form (RFC 8785): canonical, it would have the digest"
                f" {entry.name}, but its bytes have {sha256_digest(data)}"
            )
        if entry.seq != seq:
            raise IntegrityError(f"{key} carries number {entry.seq}; expected {seq}")
        return entry


def _check_frame(frame: dict[str, object]) -> None:
    """Check the four fields that every kind has."""
    seq, prev, uid, time = frame["seq"], frame["prev"], frame["uid"], frame["time"]
    if type(seq) is not int or seq < 0:
        raise ValueError(f"seq is {seq!r}; expected a whole number from 0")
    if prev is not None and not (isinstance(prev, str) and re.fullmatch(DIGEST_PATTERN, prev)):
        raise ValueError(f"prev is {prev!r}; expected a digest or null")
    if not (isinstance(uid, str) and _UID.fullmatch(uid)):
        raise ValueError(f"uid is {uid!r}; expected 32 hex digits")
    if not (isinstance(time, str) and _TIME.fullmatch(time)):
        raise ValueError(f"time is {time!r}; expected ISO 8601 in UTC with microseconds, such as {utc_now()}")
