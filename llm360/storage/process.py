"""Connections belong to one process; the stores that use them travel between processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerProcess(Generic[T]):
    """Something made on first use, once in each process.

    It pickles as its recipe, and a forked child makes its own: sockets must not be shared.

    Args:
        make: The recipe; must itself be picklable.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[int, T] | None = None

    def __reduce__(self) -> tuple[type[PerProcess[T]], tuple[Callable[[], T]]]:
        return type(self), (self._make,)

    def get(self) -> T:
        """The one of this process; safe to call from several threads."""
        with self._lock:
            if self._made is None or self._made[0] != os.getpid():
                self._made = os.getpid(), self._make()
            return self._made[1]
