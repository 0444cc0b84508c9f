from __future__ import annotations

import pytest
from synthetic.described import described_release

from llm360.release.create import open_release
from llm360.release.history import History
from llm360.release.words import NO_WORDS, stated_words
from llm360.storage import open_storage


@pytest.fixture
def described(tmp_path):
    words = {"license": "MIT", "authors": ["Ada"], "description": "first"}
    return described_release(open_storage(str(tmp_path / "run")), words)


def words_of(run):
    return stated_words(open_release(run.storage).history())


def test_words_are_those_of_the_newest_attempt(described):
    assert (words_of(described).license, words_of(described).description) == ("MIT", "first")

    described.words = {"authors": ["Ada", "Charles"]}
    described.claim(described.entries[-1])
    assert words_of(described).authors == ("Ada", "Charles")
    assert words_of(described).license is None, "what is no longer stated is no longer said"


@pytest.mark.parametrize("recorded", [{"license": 5}, {"authors": "Ada"}, {"motto": "x"}, "MIT", None])
def test_what_is_no_such_section_says_nothing(described, recorded):
    described.words = recorded
    described.claim(described.entries[-1])
    assert words_of(described) == NO_WORDS


def test_before_the_first_attempt_nothing_is_said():
    assert stated_words(History()) == NO_WORDS
