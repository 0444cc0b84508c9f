"""The runbook knows every phase and every reason, and its table is the one that the operator goes by."""

import re
from pathlib import Path

from llm360.spec.status import PHASES
from llm360_operator.verdict import CONDITIONS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "runbooks" / "conditions.md").read_text()
DECIDING = ("reconcile.py", "rules.py", "training.py", "plan.py")
SOURCES = "".join((ROOT / "operator" / "llm360_operator" / name).read_text() for name in DECIDING)
EVALUATIONS = (ROOT / "operator" / "llm360_operator" / "evaluation.py").read_text()
TROUBLES = (ROOT / "operator" / "llm360_operator" / "seen.py").read_text()


def test_the_table_of_phases_is_the_operators():
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| (\w+) \| (\w+) \| (\w+) \| (\w+) \|$", PAGE, re.M)
    assert {phase: tuple(row) for phase, *row in rows} == CONDITIONS
    assert tuple(CONDITIONS) == PHASES


def test_every_reason_has_a_line():
    said = set(re.findall(r'Verdict\([^"]*(?:"\w+"[^"]{0,20})?"([A-Z]\w+)", ', SOURCES))
    said |= set(re.findall(r'Trouble\("(\w+)"', SOURCES + TROUBLES)) | set(
        re.findall(r': "([A-Z]\w+)",$', TROUBLES, re.M)
    )
    said |= set(re.findall(r'"(Job\w+|ConfigLost|InvalidSpec|PreflightFailed)"', SOURCES + TROUBLES))
    said |= set(re.findall(r'"(Evaluat\w+|WaitsForOthers|CheckpointsUnknown)"', EVALUATIONS)) - {"Evaluated"}
    assert len(said) > 36
    assert sorted(reason for reason in said if f"`{reason}`" not in PAGE) == []
