"""How long to wait before trying again."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from llm360.errors import StorageUnavailableError

T = TypeVar("T")

FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
SAY_EVERY = 60.0
TELL_EVERY = 10.0
"""Seconds between two notices about one server: many threads wait for it together, and one line tells of them all."""

_told: dict[str, float] = {}
_telling = threading.Lock()


def is_to_be_told(server: str) -> bool:
    """Whether the caller is to say that a server keeps it waiting; no other thread has said so just now."""
    now = time.monotonic()
    with _telling:
        if now - _told.get(server, float("-inf")) < TELL_EVERY:
            return False
        _told[server] = now
        return True


def backoff(attempts: int) -> Iterator[float | None]:
    """Seconds to wait after each of the attempts, doubling, with jitter so that clients part; None after the last."""
    for attempt in range(attempts - 1):
        yield min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
    yield None


def wait_until_available(
    call: Callable[[], T],
    *,
    say: Callable[[str], None],
    give_up_after: float | None = None,
    say_every: float = SAY_EVERY,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """Call until the store answers; meanwhile say what is going on.

    Only `StorageUnavailableError` is waited for. The call must be safe to repeat: an earlier one may have taken
    effect although its answer was lost.

    Args:
        call: What needs the store.
        say: Takes a sentence for a person: at the first failure, every `say_every` seconds, and when it is over.
        give_up_after: Seconds after which the error is raised after all; None waits for ever.
        say_every: Seconds between two sentences.
        sleep: Waits; `threading.Event.wait` of an event that stops the program suits as well.
        clock: Seconds from an arbitrary origin.
    """
    started = clock()
    said: float | None = None
    pause = FIRST_PAUSE
    while True:
        try:
            result = call()
        except StorageUnavailableError as error:
            now = clock()
            waited = now - started
            if give_up_after is not None and waited >= give_up_after:
                raise
            if said is None or now - said >= say_every:
                say(f"the store is unavailable, waiting for it ({waited:.0f} s so far): {error.message}")
                said = now
            remaining = float("inf") if give_up_after is None else give_up_after - waited
            sleep(min(pause, remaining))
            pause = min(LONGEST_PAUSE, 2 * pause)
        else:
            if said is not None:
                say(f"the store answers again after {clock() - started:.0f} s")
            return result
