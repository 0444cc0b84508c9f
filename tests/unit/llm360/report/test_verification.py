from __future__ import annotations

import pytest

from llm360.release.byte_checks import Fault
from llm360.release.verify_report import VerifyReport
from llm360.report.verification import verification_view


@pytest.fixture
def report() -> VerifyReport:
    made = VerifyReport("file:///run", head="sha256:" + "a" * 64, entries=1, complete=False, bytes_hashed=2048)
    for check in made.checks.values():
        check.ran, check.checked = True, 3
    return made


def test_scope_says_what_was_read_and_how_the_chain_ends(report):
    view = verification_view(report, "latest")

    assert view.ok
    assert view.scope == (
        "1 ledger entry, the files of the latest checkpoint (2.00 KiB hashed);"
        " the chain says: in progress or truncated."
    )


def test_verdict_names_the_first_fault_of_the_first_broken_check(report):
    report.checks[9].faults.append(Fault("data/manifest.json", "is missing"))
    report.checks[7].faults += [Fault(f"checkpoints/{i}", "is missing") for i in range(15)]

    view = verification_view(report, "all")

    assert view.verdict == "Broken at check 7, manifests: checkpoints/0: is missing."
    assert [row.result for row in view.checks] == ["ok"] * 6 + ["bad", "ok", "bad", "ok", "ok"]
    assert view.checks[6].detail.startswith("3 checked; checkpoints/0: is missing; ")
    assert view.checks[6].detail.endswith("and 5 more faults")


def test_check_that_did_not_run_is_left_out(report):
    report.checks[8].ran, report.checks[8].note = False, "left out by --bytes none"

    row = verification_view(report, "none").checks[7]

    assert (row.result, row.detail) == ("left", "left out by --bytes none")
