"""What others published, against the facts that stand elsewhere."""

from __future__ import annotations

import pytest

from llm360.errors import InputError
from llm360.report.published import all_published, check_published, published_models
from llm360.spec import preset_names


def test_every_score_has_a_source_a_preset_and_a_share():
    for score in all_published():
        assert score.source
        assert score.model in preset_names()
        assert score.kind in ("exact", "rounded", "digitized")
        assert 0 <= score.value <= 1 or score.metric == "perplexity"


def test_amber_has_a_curve_for_each_task_of_the_paper():
    """357 points read off each figure; the last checkpoint's exact ARC from its result file: 484 of 1,172."""
    amber = [score for score in all_published() if score.model == "amber-7b"]
    for task, metric in (
        ("arc_challenge", "acc_norm"),
        ("hellaswag", "acc_norm"),
        ("mmlu", "acc"),
        ("truthfulqa_mc2", "acc"),
    ):
        own = [s for s in amber if (s.task, s.metric, s.kind) == (task, metric, "digitized")]
        assert len(own) == 357
        assert [s.tokens for s in own] == [762 * 2240 * 2048 * (n + 1) for n in range(357)]
    (last,) = [s for s in amber if (s.task, s.metric, s.tokens) == ("arc_challenge", "acc_norm", 1_258_448_486_400)]
    assert last.value == pytest.approx(484 / 1172)
    assert last.stderr == pytest.approx((484 / 1172 * (688 / 1172) / 1171) ** 0.5)


def test_pythia_has_its_sixteen_models():
    pythia = [name for name in published_models() if name.startswith("pythia")]
    assert len(pythia) == 16
    assert {score.tokens for score in all_published() if score.model == "pythia-1.4b"} >= {0, 143_000 * 1024 * 2048}


def test_names_are_checked():
    assert check_published("amber-7b, k2-65b,") == ("amber-7b", "k2-65b")
    with pytest.raises(
        InputError, match=r"--compare has 'amber7b' \(did you mean 'amber-7b'\?\); published scores are"
    ):
        check_published("amber7b")
