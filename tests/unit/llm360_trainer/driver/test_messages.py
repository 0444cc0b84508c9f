from __future__ import annotations

import pytest

from llm360_trainer.driver.messages import Event, Outbox, Outcome, describe_error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("no luck"), "ValueError: no luck"),
        (RuntimeError("Traceback\n  File …\nOSError: no room\n"), "RuntimeError: OSError: no room"),
        (RuntimeError("The process has died. Some common causes include: …"), "RuntimeError: The process has died"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_an_error_is_one_sentence(error: Exception, sentence: str) -> None:
    assert describe_error(error) == sentence


def test_an_outbox_is_emptied_and_keeps_the_first_outcome() -> None:
    outbox = Outbox()
    outbox.say("begins", attempt=1)
    update = outbox.drain()
    assert (update.events, update.outcome) == ([Event("begins", None, 1)], None)
    outbox.end(Outcome(0, "Complete", "done"))
    outbox.end(Outcome(1, "Failed", "too late"))
    for _ in range(2):
        update = outbox.drain()
        assert (update.records, update.events, update.outcome) == ([], [], Outcome(0, "Complete", "done"))
