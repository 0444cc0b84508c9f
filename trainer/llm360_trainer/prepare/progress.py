"""Progress on standard error: one line that changes on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

# Called with (what is done, done, all, further facts), at most as often as there is something new.
Progress = Callable[[str, int, int, str], None]

TERMINAL_SECONDS = 0.2
LOG_SECONDS = 10.0


def silent(stage: str, done: int, total: int, facts: str) -> None:
    """Show nothing."""


class ProgressLine:
    """A `Progress` for people.

    Args:
        stream: Where to write; standard error by default.
        clock: Seconds; for tests.
    """

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._next = 0.0
        self._is_open = False

    def __call__(self, stage: str, done: int, total: int, facts: str) -> None:
        """Show that `done` of `total` (0: not known) are done, unless the last line is too recent; the end always."""
        terminal = self._stream.isatty()
        now = self._clock()
        if now < self._next and done != total:
            return
        self._next = now + (TERMINAL_SECONDS if terminal else LOG_SECONDS)
        text = f"{stage} {done:,}" + (f"/{total:,}" if total else "") + (f" · {facts}" if facts else "")
        end = "\n" if done == total or not terminal else ""
        self._is_open = not end
        self._stream.write(f"\r\x1b[K{text}{end}" if terminal else text + end)
        self._stream.flush()

    def close(self) -> None:
        """End the line that stands on a terminal: something else is to be said."""
        if self._is_open:
            self._stream.write("\n")
            self._is_open = False
