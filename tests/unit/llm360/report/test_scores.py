from __future__ import annotations

import numpy as np
import pytest
from synthetic.measured import checkpoints_of, evaluate

from llm360.release.create import open_release
from llm360.release.entries import Score
from llm360.report.scores import score_curves, score_figures


def curves(run):
    return score_curves(open_release(run.storage).history())


def test_a_curve_is_the_newest_score_of_each_checkpoint_by_tokens(eventful):
    first, second, *_ = checkpoints_of(eventful)
    evaluate(eventful, second, "arc_challenge", 0.3)
    evaluate(eventful, first, "arc_challenge", 0.2)
    evaluate(eventful, second, "arc_challenge", 0.4)
    (curve,) = curves(eventful)
    assert (curve.task, curve.metric, curve.shots) == ("arc_challenge", "acc_norm", 25)
    assert [(point.tokens, point.value) for point in curve.points] == [
        (first.body.tokens, 0.2),
        (second.body.tokens, 0.4),
    ]


def test_other_harnesses_shots_limits_and_seeds_are_never_mixed(eventful):
    entry = checkpoints_of(eventful)[-1]
    evaluate(eventful, entry, "mmlu", 0.3)
    for fields in ({"shots": 5}, {"harness": "lm-eval 0.5"}, {"limit": 10}, {"seed": 1}):
        evaluate(eventful, entry, "mmlu", 0.4, **fields)
    assert len(curves(eventful)) == 5
    (chart,) = score_figures({"run": curves(eventful)})
    names = [line.name for line in chart.drawn.lines]
    assert len(set(names)) == 5
    assert "25 shots, harness lm-eval 0.4.9, limit 10" in names


def test_what_was_given_up_is_no_point(eventful):
    valid = {entry.name for entry in checkpoints_of(eventful)}
    lost = next(e for e in eventful.entries if e.kind == "checkpoint" and e.name not in valid)
    evaluate(eventful, lost, "arc_challenge", 0.9)
    assert curves(eventful) == []


def test_a_group_without_numbers_of_its_own_is_drawn_by_its_tasks(eventful):
    entry = checkpoints_of(eventful)[-1]
    scores = [Score(metric=f"{task}/{metric}", value=0.3) for task in ("a", "b") for metric in ("acc", "acc_norm")]
    evaluate(eventful, entry, "group", 0.0, scores=tuple(scores))
    assert [curve.metric for curve in curves(eventful)] == ["a/acc_norm", "b/acc_norm"]


def test_bands_are_one_standard_error_and_shares_are_per_cent(eventful):
    for number, entry in enumerate(checkpoints_of(eventful)):
        evaluate(eventful, entry, "arc_challenge", 0.2 + number / 100)
    (chart,) = score_figures({"run": curves(eventful)})
    (line,) = chart.drawn.lines
    _, low, high = line.band
    np.testing.assert_allclose(high - low, 2.0)
    assert line.series.y[0] == pytest.approx(20.0)
    assert chart.title == "arc_challenge: acc_norm (%)"
    assert [path.role for path in chart.paths] == ["band", "main"]


def test_published_scores_stand_behind_with_their_source(eventful):
    for entry in checkpoints_of(eventful):
        evaluate(eventful, entry, "arc_challenge", 0.2)
    (chart,) = score_figures({"run": curves(eventful)}, ["amber-7b", "pythia-1.4b", "k2-65b"])
    published = [line for line in chart.drawn.lines if line.role == "published"]
    assert [line.name for line in published] == [
        "amber-7b, published, 25 shots",
        "pythia-1.4b, published, 0 shots",
        "pythia-1.4b, published, 5 shots",
        "k2-65b, published",
    ]
    assert "amber-train figs/amber-arc-curve.png" in chart.caption
    assert chart.drawn.x.log, "a small run against a trillion tokens needs a logarithm"
    assert [tick.label for tick in chart.x_ticks][-1].endswith("T")
    assert chart.drawn.lines[-1].role == "main", "the run's own curve lies on top"
