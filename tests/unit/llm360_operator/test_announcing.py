"""Events are written one after another behind the rounds, which neither wait for them nor fail with them."""

import asyncio
from datetime import UTC, datetime

import pytest

from llm360_operator import announcing
from llm360_operator.announcing import Announcer
from llm360_operator.api import ApiError

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
ENTRY = {"reason": "Training", "message": "step 7 of 100"}


@pytest.fixture
def run(make_run):
    made = make_run()
    made["metadata"] |= {"resourceVersion": "1"}
    return made


def write(run, *answers, said=(ENTRY,)):
    """What the API server was given, and the pauses between, where it answers so."""
    given, pauses, left = [], [], list(answers)

    async def create(manifest):
        given.append(manifest)
        if left and (error := left.pop(0)):
            raise error
        return manifest

    async def pause(seconds):
        pauses.append(seconds)

    async def work():
        announcer = Announcer(create, pause)
        for entry in said:
            announcer.say(run, entry, NOW, is_bad=False)
        task = asyncio.create_task(announcer.run())
        await announcer.finish()
        task.cancel()

    asyncio.run(work())
    return given, pauses


def test_an_event_says_what_a_condition_says(run):
    (given,), _ = write(run)
    assert (given["reason"], given["message"], given["type"]) == ("Training", "step 7 of 100", "Normal")
    assert given["involvedObject"]["name"] == run["metadata"]["name"]
    assert given["involvedObject"]["uid"] == run["metadata"]["uid"]


def test_events_are_written_in_the_order_in_which_they_were_said(run):
    said = [ENTRY | {"reason": f"Reason{number}"} for number in range(20)]
    given, _ = write(run, said=said)
    assert [each["reason"] for each in given] == [each["reason"] for each in said]


def test_without_an_answer_the_same_event_is_tried_again_after_growing_pauses(run):
    away = ApiError(0, "Unreachable", "no answer")
    given, pauses = write(run, away, ApiError(503, "ServiceUnavailable", "busy"), ApiError(429, "TooMany", "slow"))
    assert len(given) == 4
    assert len({each["metadata"]["name"] for each in given}) == 1
    assert pauses == [1, 2, 4]
    given, _ = write(run, *[away] * 20)
    assert len(given) == announcing.TRIES


@pytest.mark.parametrize("error", [ApiError(403, "Forbidden", "exceeded quota: small"), OSError("no token")])
def test_what_cannot_be_written_is_logged_and_the_next_is_written(run, caplog, error):
    given, pauses = write(run, error, said=(ENTRY, ENTRY))
    assert (len(given), pauses) == (2, [])
    assert f"event Training: not written: {error}" in caplog.text


def test_no_more_wait_than_there_is_room_for(run, caplog, monkeypatch):
    monkeypatch.setattr(announcing, "MOST_WAITING", 3)
    given, _ = write(run, said=[ENTRY] * 5)
    assert len(given) == 3
    assert caplog.text.count("dropped, for 3 wait already") == 2


def test_an_operator_that_stops_does_not_wait_long(run, monkeypatch):
    monkeypatch.setattr(announcing, "FINISH_SECONDS", 0.01)

    async def work():
        announcer = Announcer(lambda _: asyncio.Event().wait())
        announcer.say(run, ENTRY, NOW, is_bad=True)
        task = asyncio.create_task(announcer.run())
        await asyncio.wait_for(announcer.finish(), 5)
        task.cancel()

    asyncio.run(work())
