"""Names are found without reading the whole harness, and mean what they mean there."""

from __future__ import annotations

import re

import pytest

from llm360.errors import InputError
from llm360_trainer.evaluate import tasks
from llm360_trainer.evaluate.tasks import Tasks, parse_tasks


@pytest.mark.parametrize(
    "name",
    [
        "arc_challenge",
        "mmlu",
        "truthfulqa_mc2",
        "ai2_arc",
        "crows_pairs_english",
        "toxigen",
        "humaneval",
        "leaderboard",
    ],
)
def test_all_members_are_found(name):
    found = Tasks([name])
    reached = found._reachable([name])
    assert name in found._manager.task_index
    assert {member for member in reached if member not in found._manager.task_index} == set()
    members = {"mmlu": 57 + 4 + 4 + 1, "ai2_arc": 3, "arc_challenge": 1}
    assert len(reached) == members.get(name, len(reached))


def test_descriptions_are_those_of_the_whole_harness():
    names = ["arc_easy", "hellaswag", "mmlu_astronomy", "truthfulqa_mc1"]
    found = Tasks(names)
    for name in names:
        line = re.compile(rf"""^['"]?task['"]?: ['"]?{name}['"]?$""", re.MULTILINE)
        first = next(path for path, text in tasks._texts().items() if line.search(text))
        assert found._manager.task_index[name].yaml_path == first


@pytest.mark.parametrize(
    ("name", "suggested"),
    [("helaswag", "hellaswag"), ("MMLU", "mmlu"), ("arc-challenge", "arc_challenge"), ("xqzzzwv", None)],
)
def test_an_unknown_name_has_its_nearest_named(name, suggested):
    with pytest.raises(InputError) as caught:
        Tasks(["hellaswag", name])
    assert f"has no task '{name}'" in caught.value.message
    assert (f"(did you mean '{suggested}'?)" in caught.value.message) == (suggested is not None)


def test_words_are_taken_apart():
    assert [str(task) for task in parse_tasks(" arc_easy:5 ,mmlu,,wikitext:0")] == ["arc_easy:5", "mmlu", "wikitext:0"]


def test_tasks_that_run_code_are_known():
    found = Tasks(["humaneval", "mbpp", "arc_easy"])
    assert [found.runs_code(name) for name in ("humaneval", "mbpp", "arc_easy")] == [True, True, False]
