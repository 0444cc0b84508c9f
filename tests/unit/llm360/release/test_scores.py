"""An evaluation's numbers, read from its results."""

import json

import pytest

from llm360.release.entries import Score
from llm360.release.scores import scores_of

RESULTS = {
    "configs": {"b": {}, "a": {}},
    "results": {
        "a": {"alias": "a", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 1, "skill,none": None},
        "b": {"exact_match,strict-match": 0.25, "exact_match_stderr,strict-match": "N/A", "is_fine,none": True},
        "group": {"alias": "group"},
    },
}


def test_numbers_of_a_task_with_their_errors():
    assert scores_of(RESULTS, "a") == (
        Score(metric="acc", value=0.5, stderr=0.1),
        Score(metric="acc_norm", value=1.0),
    )


def test_filter_is_named_and_what_is_no_number_left_out():
    assert scores_of(RESULTS, "b") == (Score(metric="exact_match,strict-match", value=0.25),)


def test_group_without_numbers_has_those_of_its_tasks():
    names = [score.metric for score in scores_of(RESULTS, "group")]
    assert names == ["a/acc", "a/acc_norm", "b/exact_match,strict-match"]


def test_nothing_to_count():
    assert scores_of({}, "a") == ()


@pytest.mark.parametrize("text", ["[1]", '{"results": 3}', '{"results": {"a": [1]}}', '{"configs": ["a"]}'])
def test_what_is_no_results_is_refused(text):
    with pytest.raises(ValueError, match="expected objects"):
        scores_of(json.loads(text), "a")
