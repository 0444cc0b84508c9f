"""The verification's outcome in a person's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from llm360.release.verify import Extent
from llm360.release.verify_report import TITLES, Check, VerifyReport
from llm360.report.text import counted, short_bytes

# Of a check with many faults the page names so many.
MAX_FAULTS = 10

READ = {
    "all": "every file of every checkpoint",
    "latest": "the files of the latest checkpoint",
    "none": "no checkpoint's files",
}


WORDS = {"ok": ("ok", "✓ holds"), "failed": ("bad", "✗ broken"), "skipped": ("left", "– left out")}


class CheckRow(NamedTuple):
    """One numbered check; result is `ok`, `bad` or `left` (out)."""

    number: int
    title: str
    result: str
    word: str
    detail: str


@dataclass(frozen=True)
class VerificationView:
    """What `verify` found, as the page shows it."""

    ok: bool
    verdict: str
    scope: str
    checks: tuple[CheckRow, ...]

    @property
    def sentence(self) -> str:
        """The verdict for a line of text."""
        return f"{'yes' if self.ok else 'NO'}: {self.verdict if not self.ok else self.scope}"


def verification_view(report: VerifyReport, extent: Extent) -> VerificationView:
    """The page's part on verification.

    Args:
        report: What `verify` found.
        extent: Whose files it was asked to read.
    """
    scope = (
        f"{counted(report.entries, 'ledger entry', 'ledger entries')}, {READ[extent]}"
        f" ({short_bytes(report.bytes_hashed)} hashed); the chain says: {report.state}."
    )
    first = report.first_fault
    verdict = "Verified: every link that was checked holds."
    if first is not None:
        check, fault = first
        verdict = f"Broken at check {check.number}, {TITLES[check.number]}: {fault.key}: {fault.problem.rstrip('.…')}."
    return VerificationView(report.ok, verdict, scope, tuple(map(_row, report.checks.values())))


def _row(check: Check) -> CheckRow:
    result, word = {"ok": ("ok", "✓ holds"), "failed": ("bad", "✗ broken"), "skipped": ("left", "– left out")}[
        check.status
    ]
    details = [f"{check.checked:,} checked"] if check.ran else []
    details += [check.note] if check.note else []
    details += [f"{fault.key}: {fault.problem}" for fault in check.faults[:MAX_FAULTS]]
    if len(check.faults) > MAX_FAULTS:
        details.append(f"and {len(check.faults) - MAX_FAULTS:,} more faults")
    return CheckRow(check.number, TITLES[check.number], result, word, "; ".join(details))
