"""Waiting for a store that may come back."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm360.errors import StorageError, StorageUnavailableError
from llm360.storage.retry import LONGEST_PAUSE, TELL_EVERY, backoff, is_to_be_told, wait_until_available


class Clock:
    """A clock that moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def failing(times):
    attempts = itertools.count()

    def call():
        if next(attempts) < times:
            raise StorageUnavailableError("no answer from http://store")
        return "answer"

    return call


def test_an_answer_needs_no_words(clock):
    said = []
    assert wait_until_available(failing(0), say=said.append, sleep=clock.sleep, clock=clock) == "answer"
    assert (said, clock.pauses) == ([], [])


def test_it_says_so_waits_longer_each_time_and_goes_on(clock):
    said = []
    assert wait_until_available(failing(8), say=said.append, sleep=clock.sleep, clock=clock) == "answer"
    assert clock.pauses == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, LONGEST_PAUSE, LONGEST_PAUSE]
    assert said == [
        "the store is unavailable, waiting for it (0 s so far): no answer from http://store",
        "the store answers again after 33 s",
    ]


def test_it_says_so_once_per_interval(clock):
    said = []
    wait_until_available(failing(30), say=said.append, say_every=60, sleep=clock.sleep, clock=clock)
    waits = [int(sentence.partition("(")[2].split()[0]) for sentence in said[:-1]]
    assert waits == [0, 63, 123, 183, 243]


def test_it_gives_up(clock):
    with pytest.raises(StorageUnavailableError):
        wait_until_available(failing(1000), say=lambda _: None, give_up_after=25, sleep=clock.sleep, clock=clock)
    assert clock.now == 125.0


def test_other_errors_pass(clock):
    def refuse():
        raise StorageError("refused")

    with pytest.raises(StorageError, match="refused"):
        wait_until_available(refuse, say=lambda _: None, sleep=clock.sleep, clock=clock)
    assert clock.pauses == []


def test_backoff_doubles_with_jitter_and_ends():
    pauses = list(backoff(10))
    assert pauses[-1] is None
    for number, pause in enumerate(pauses[:-1]):
        longest = min(LONGEST_PAUSE, 0.2 * 2**number)
        assert longest / 2 <= pause <= longest
    assert list(backoff(1)) == [None]


def test_one_of_many_threads_tells_of_a_server_and_again_after_a_while(clock, monkeypatch):
    monkeypatch.setattr("llm360.storage.retry.time.monotonic", clock)
    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(is_to_be_told, ["one"] * 100)) == 1
    assert is_to_be_told("other")
    clock.now += TELL_EVERY - 1
    assert not is_to_be_told("one")
    clock.now += 1
    assert is_to_be_told("one")
