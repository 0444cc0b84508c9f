"""One thread that commits what a recorder asks for, in that order, and waits for the store while it is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from llm360.errors import LLM360Error
from llm360.storage import wait_until_available

T = TypeVar("T")


class Commits:
    """See the module. Safe to use from several threads.

    Args:
        over: Set once nothing more is to be committed; what waits for its turn then is left.
        say: Takes sentences on a store that is away.
        note_waiting: Told whether a commit waits for the store.
        fail: Given what ends the run; called in the thread.
    """

    def __init__(
        self,
        over: threading.Event,
        say: Callable[[str], object],
        note_waiting: Callable[[bool], object],
        fail: Callable[[LLM360Error], object],
    ) -> None:
        self._over, self._say, self._note_waiting, self._fail = over, say, note_waiting, fail
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="commit")
        self.is_store_away = False
        """Whether a commit waits for the store."""

    def now(self, commit: Callable[[], T], *, even_if_over: bool = False) -> T | None:
        """Have it done after all that was asked for before, and wait for that; None where the run is over."""
        return self.later(commit, even_if_over=even_if_over).result()

    def later(self, commit: Callable[[], T], *, even_if_over: bool = False) -> Future[T | None]:
        """Have it done after all that was asked for before."""
        return self._thread.submit(self._guarded, commit, even_if_over)

    def close(self) -> None:
        """Begin nothing more; what is under way is left."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, commit: Callable[[], T], even_if_over: bool) -> T | None:
        """Run a commit, waiting for the store where it is away; a failure ends the run."""
        if self._over.is_set() and not even_if_over:
            return None
        try:
            return wait_until_available(commit, say=self._waits)
        except LLM360Error as error:
            self._fail(error)
        except Exception as error:
            self._fail(LLM360Error(f"the recorder failed: {type(error).__name__}: {error}", reason="RecorderFailed"))
        finally:
            self._note(False)
        return None

    def _waits(self, text: str) -> None:
        self._note(True)
        self._say(text)

    def _note(self, is_waiting: bool) -> None:
        self.is_store_away = is_waiting
        self._note_waiting(is_waiting)
