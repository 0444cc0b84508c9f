"""What a verification found: eleven numbered checks and their faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llm360.release.byte_checks import Fault

TITLES = {
    1: "chain is canonical and linked",
    2: "configuration",
    3: "attempts",
    4: "steps, tokens and checkpoints",
    5: "data order",
    6: "metrics",
    7: "manifests",
    8: "checkpoint bytes",
    9: "data",
    10: "environments, evaluations, analyses",
    11: "head",
}


@dataclass
class Check:
    """The outcome of one numbered check.

    Attributes:
        number: As in the list above.
        checked: How many things (entries, files, segments …) it looked at.
        faults: What is wrong, in the order of the chain.
        note: What was left out, or what else there is to say.
        ran: Whether it ran at all; later checks do not where the chain itself is broken.
    """

    number: int
    checked: int = 0
    faults: list[Fault] = field(default_factory=list)
    note: str = ""
    ran: bool = False

    @property
    def status(self) -> str:
        """`ok`, `failed` or `skipped`."""
        if not self.ran:
            return "skipped"
        return "failed" if self.faults else "ok"

    def to_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {
            "number": self.number,
            "title": TITLES[self.number],
            "status": self.status,
            "checked": self.checked,
            "note": self.note,
            "faults": [fault._asdict() for fault in self.faults],
        }


@dataclass
class VerifyReport:
    """The outcome of a verification.

    Attributes:
        uri: Of the release.
        checks: All of them, in order.
        head: The last entry's name; empty where none could be read.
        entries: How many entries the chain has, as far as it could be read.
        complete: Whether the run is complete.
        bytes_hashed: Bytes of checkpoint files that were read.
    """

    uri: str
    checks: dict[int, Check] = field(default_factory=lambda: {number: Check(number) for number in TITLES})
    head: str = ""
    entries: int = 0
    complete: bool = False
    bytes_hashed: int = 0

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return self.first_fault is None

    @property
    def first_fault(self) -> tuple[Check, Fault] | None:
        """The first broken link: the first fault of the first check that has one."""
        return next(((check, check.faults[0]) for check in self.checks.values() if check.faults), None)

    @property
    def state(self) -> str:
        """What the chain's end says: a cut tail cannot be told from a run that goes on."""
        return "complete" if self.complete else "in progress or truncated"

    def to_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {
            "uri": self.uri,
            "ok": self.ok,
            "state": self.state,
            "headDigest": self.head,
            "entries": self.entries,
            "bytesHashed": self.bytes_hashed,
            "checks": [check.to_json() for check in self.checks.values()],
        }
