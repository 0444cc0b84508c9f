"""Interrupted, grown, damaged, too large for the memory: what a task leaves is whole and the ledger says so."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

from llm360.errors import IntegrityError, LLM360Error
from llm360.release.analyses import load_results, merged_results
from llm360.release.create import open_release
from llm360.release.verify import verify
from llm360_trainer.analyze.analysis import Analysis
from llm360_trainer.analyze.pieces import chunk_samples
from llm360_trainer.analyze.work import Task, analyze


class Counting(Analysis):
    """Numbers that follow from step and piece, and a record of what was asked."""

    name, summary, reads, writes = "counting", "", "", ""

    def __init__(self, fail_at=None):
        self.asked, self.fail_at = [], fail_at

    def measure(self, subject, piece, settings):
        if len(self.asked) == self.fail_at:
            raise KeyboardInterrupt
        self.asked.append((subject.checkpoint.step, piece.name))
        return pa.table({"value": np.arange(3.0) + subject.checkpoint.step, "source": ["a", "a", "b"]})


@pytest.fixture
def start(release, open_subject):
    """Runs an analysis on the copy's checkpoints and chunks by their positions."""

    def run(analysis, checkpoints=slice(None), chunks="all", settings=None):
        ledger = open_release(release.storage)
        history = ledger.history()
        pieces = chunk_samples(release.storage, history, chunks, count=5, seed=1)
        task = Task(analysis, settings or {}, history.branch[checkpoints], pieces)
        return analyze(ledger, task, open_subject)

    return run


def test_results_are_bound_by_the_ledger(release, start):
    done = start(Counting())
    history = open_release(release.storage).history()
    (body,) = history.analyses
    assert (body.prefix, body.checkpoint, done.measured) == (done.prefix, None, 12)
    assert load_results(release.storage, body) == done.results
    assert verify(release.storage).ok
    cell = next(cell for cell in done.results.cells if (cell.step, cell.piece, cell.source) == (6, "chunk_001", "a"))
    assert cell.values == {"value": 6.5, "value_stderr": pytest.approx(0.5)}
    assert (cell.items, cell.label) == (2, "ckpt_000")


def test_an_interrupted_task_goes_on_where_it_stopped(release, start):
    with pytest.raises(KeyboardInterrupt):
        start(Counting(fail_at=5))
    assert open_release(release.storage).history().analyses == []
    second = Counting()
    done = start(second)
    assert len(second.asked) == done.measured == 7
    assert done.results == start(Counting()).results
    assert len(open_release(release.storage).history().analyses) == 1


def test_a_task_that_is_done_measures_nothing(start):
    first, again = start(Counting()), start(Counting(fail_at=0))
    assert (again.measured, again.entry, again.results) == (0, first.entry, first.results)


def test_a_grown_task_takes_over_what_was_measured(release, start):
    start(Counting(), slice(0, 2), "0")
    start(Counting(), slice(2, 3), "0,1")
    grown = Counting()
    done = start(grown)
    assert len(grown.asked) == done.measured == 12 - 2 - 2
    history = open_release(release.storage).history()
    assert len(history.analyses) == 3
    assert verify(release.storage).ok
    only = [body for body in history.analyses if body.checkpoint]
    assert [history.all_checkpoints[body.checkpoint].step for body in only] == [12]


def test_other_settings_share_nothing_and_stay_apart(release, start):
    start(Counting(), settings={"k": 1})
    other = Counting()
    start(other, settings={"k": 2})
    assert len(other.asked) == 12
    results, problems = merged_results(release.storage, open_release(release.storage).history())
    assert ([found.settings for found in results], problems) == ([{"k": 1}, {"k": 2}], [])


def test_results_of_single_checkpoints_are_read_together(release, start):
    for number in range(4):
        start(Counting(), slice(number, number + 1), "0")
    (merged,), _ = merged_results(release.storage, open_release(release.storage).history())
    assert [cell.step for cell in merged.cells if cell.source is None] == [0, 6, 12, 18]


def test_a_damaged_part_is_not_taken_over(release, start):
    done = start(Counting(), slice(0, 1), "0")
    (part,) = (info.key for info in release.storage.list(f"{done.prefix}/parts/"))
    release.storage.put(part, b"PAR1")
    with pytest.raises(IntegrityError, match="has the digest"):
        start(Counting())


def test_damaged_results_are_told_not_shown(release, start):
    done = start(Counting(), slice(0, 1), "0")
    release.storage.put(f"{done.prefix}/results.json", json.dumps({"format": "other"}).encode())
    results, (problem,) = merged_results(release.storage, open_release(release.storage).history())
    assert results == []
    assert "counting" in problem
    assert "the ledger names" in problem


def test_out_of_memory_halves_the_batch_and_says_so(start, capsys):
    class Large(Counting):
        name = "large"

        def measure(self, subject, piece, settings):
            if subject.batch_size > 1:
                raise torch.OutOfMemoryError("too much")
            return super().measure(subject, piece, settings)

    assert start(Large(), slice(0, 1)).measured == 3
    assert capsys.readouterr().err.count("out of memory; going on with") == 2  # 7, 3, 1: once, not for every piece


def test_out_of_memory_with_one_sequence_is_an_error(start):
    class Larger(Counting):
        def measure(self, subject, piece, settings):
            raise torch.OutOfMemoryError("too much")

    with pytest.raises(LLM360Error, match="out of memory with one sequence at a time"):
        start(Larger())
