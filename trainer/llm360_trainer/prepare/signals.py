"""SIGINT and SIGTERM of a command that may work for hours: both stop it alike, and the same command goes on later."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNAL_EXIT = 128
"""A process that a signal ends exits with this and the signal's number, as shells have it."""


class Interruption:
    """The two signals, as an exception or, while `is_deferred`, as a wish to stop.

    A wish may take its time: the first signal is kept for whoever looks, the second is obeyed at once.

    Args:
        leave: Called with the second signal just before the process ends, to say so. It runs between any two
            instructions of the main thread.
    """

    def __init__(self, leave: Callable[[signal.Signals], None] | None = None) -> None:
        self.signal: signal.Signals | None = None
        self.is_deferred = False
        self._leave = leave
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if not self.is_deferred:
            raise KeyboardInterrupt(number)
        if self.signal is None:
            self.signal = signal.Signals(number)
            return
        try:
            if self._leave is not None:
                with contextlib.suppress(Exception):  # the main thread may be in the middle of the same stream
                    self._leave(signal.Signals(number))
        finally:
            os._exit(SIGNAL_EXIT + number)


def exit_code_of(interrupt: KeyboardInterrupt) -> int:
    """With what a command ends that a signal stopped; SIGINT where nobody says which."""
    return SIGNAL_EXIT + (int(interrupt.args[0]) if interrupt.args else signal.SIGINT)


@contextlib.contextmanager
def kept_handlers() -> Iterator[None]:
    """Within the block, Ray is started: it takes SIGTERM for itself, and this gives it back.

    Raises:
        KeyboardInterrupt: SIGTERM came while Ray had it, which makes a SystemExit of it.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit as end:
        if end.code != signal.SIGTERM:
            raise
        raise KeyboardInterrupt(int(signal.SIGTERM)) from None
    finally:
        # Not the main thread, in which Ray takes no signals either; or a handler that is not Python's.
        with contextlib.suppress(ValueError, TypeError):
            for number, handler in before.items():
                signal.signal(number, handler)
