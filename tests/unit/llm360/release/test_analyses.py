"""Results of analyses: read as the ledger binds them, those of equal settings together."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from synthetic.measured import analyse, checkpoints_of
from synthetic.release import begin_release, eventful_release

from llm360.errors import IntegrityError
from llm360.release.analyses import Cell, load_results, merged_results
from llm360.release.create import open_release
from llm360.release.verify import verify
from llm360.storage import open_storage


@pytest.fixture
def run(tmp_path):
    return eventful_release(open_storage(str(tmp_path / "run")))


def merged(run):
    return merged_results(run.storage, open_release(run.storage).history())


def test_results_are_read_as_written_and_verified(run):
    entry = analyse(run, checkpoints_of(run))
    results = load_results(run.storage, entry.body)
    assert results.encode() == run.storage.get(f"{entry.body.prefix}/results.json")
    assert verify(run.storage).ok
    assert merged(run) == ([results], [])


def test_single_checkpoints_come_together_and_the_newest_of_a_cell_counts(run):
    first, second, *_ = checkpoints_of(run)
    analyse(run, [first])
    analyse(run, [second], ("chunk_000",))
    analyse(run, [first], ("chunk_001", "chunk_000"))  # the pieces' numbers are the other way round
    (results,), _ = merged(run)
    found = {(c.step, c.piece): c.values["score"] for c in results.cells if c.source is None}
    assert found == {
        (first.body.step, "chunk_000"): first.body.step / 1000 + 0.1,
        (first.body.step, "chunk_001"): first.body.step / 1000,
        (second.body.step, "chunk_000"): second.body.step / 1000,
    }


def test_what_the_run_went_back_behind_is_left_out(tmp_path):
    run, init = begin_release(open_storage(str(tmp_path / "run")))
    lost = run.chunk(0, init)
    analyse(run, [init, lost])
    run.claim(init)
    (results,), _ = merged(run)
    assert {cell.checkpoint for cell in results.cells} == {init.name}


def test_damaged_results_are_told_and_never_used(run):
    entry = analyse(run, checkpoints_of(run))
    run.storage.put(f"{entry.body.prefix}/results.json", b"{}")
    with pytest.raises(IntegrityError, match="has the digest sha256:"):
        load_results(run.storage, entry.body)
    results, (problem,) = merged(run)
    assert results == []
    assert problem.startswith("The analysis 'memory' could not be read: ")


def test_missing_results_are_told(run):
    entry = analyse(run, checkpoints_of(run))
    run.storage.delete(f"{entry.body.prefix}/results.json")
    assert "could not be read" in merged(run)[1][0]


def test_numbers_are_finite():
    fields = {"checkpoint": "sha256:" + "0" * 64, "label": "x", "step": 0, "tokens": 0, "piece": "p", "items": 1}
    with pytest.raises(ValidationError, match="finite"):
        Cell(**fields, values={"score": float("nan")})
