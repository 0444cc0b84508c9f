from __future__ import annotations

import numpy as np
import pytest
from synthetic.measured import analyse, checkpoints_of

from llm360.release.analyses import AnalysisResults, merged_results
from llm360.release.create import open_release
from llm360.report.analyses import analysis_figures, overall_lines
from llm360.report.grid import Grid


@pytest.fixture
def results(eventful):
    analyse(eventful, checkpoints_of(eventful))
    (found,), _ = merged_results(eventful.storage, open_release(eventful.storage).history())
    return found


def test_every_declared_figure_is_drawn(results):
    figures = {figure.key: figure for figure in analysis_figures([results])}
    assert list(figures) == ["memory", "memory-lines", "memory-source", "memory-spread", "memory-pairs"]
    assert [isinstance(figure, Grid) for figure in figures.values()] == [True, False, False, False, True]
    memory = figures["memory"]
    assert [label for label, _ in memory.rows] == ["chunk_000", "chunk_001"]
    assert memory.rows[1][1][-1].title == "chunk_001, ckpt_007: 50.0 %"
    assert [line.name for line in figures["memory-lines"].drawn.lines] == ["chunk_000", "chunk_001"]
    assert [line.name for line in figures["memory-source"].drawn.lines] == ["all sources", "code", "docs"]


def test_pieces_of_a_source_are_pooled_by_their_items(results):
    whole, *_ = analysis_figures([results])[2].drawn.lines
    steps = np.array(sorted({cell.step for cell in results.cells}))
    np.testing.assert_allclose(whole.series.y, steps / 1000 + 0.05)
    np.testing.assert_allclose(whole.error, 0.02 / np.sqrt(2))


def test_distributions_are_shares_of_at_most_seven_checkpoints(results):
    chart = analysis_figures([results])[3]
    assert len(chart.drawn.lines) == 7
    assert chart.notes[0].startswith("7 of 9 checkpoints shown")
    for line in chart.drawn.lines:
        assert line.series.y.sum() == pytest.approx(100)


def test_settings_tell_apart_what_was_analysed_twice(results):
    other = AnalysisResults.model_validate({**results.model_dump(), "settings": {"k": 64}})
    figures = analysis_figures([results, other])
    assert len({figure.key for figure in figures}) == 10
    assert figures[0].caption.endswith("With k 32.")
    assert figures[5].caption.endswith("With k 64.")


def test_runs_are_set_side_by_side_where_settings_agree(results):
    other = AnalysisResults.model_validate({**results.model_dump(), "settings": {"k": 64}})
    (same,) = overall_lines({"one": [results], "two": [results]})
    assert [line.name for line in same.drawn.lines] == ["one", "two"]
    assert len(overall_lines({"one": [results], "two": [other]})) == 2


def test_many_pieces_are_thinned_and_said(eventful):
    analyse(eventful, checkpoints_of(eventful)[-2:], tuple(f"chunk_{n:03d}" for n in range(30)))
    found, _ = merged_results(eventful.storage, open_release(eventful.storage).history())
    chart = analysis_figures(found)[1]
    assert len(chart.drawn.lines) == 10
    assert chart.notes[0] == "10 of 30 shown"
