"""A copy of what the driver prints, on the standard output of its container, where `kubectl logs` looks.

Ray gives each submitted job a log file of its own, which nobody sees from outside and which goes with the pod. The
operator names the container's standard output in the head's environment. A copy must never stop or slow the training:
it is written without waiting, and what does not fit is left out.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

VARIABLE = "LLM360_LOG_COPY"
"""Environment variable with the copy's path."""

MAX_LINE_BYTES = 4096
"""So much is written into a pipe in one piece, whoever else writes there (PIPE_BUF); a longer line is cut."""


@contextlib.contextmanager
def copied_output(path: str | None) -> Iterator[None]:
    """Within the block, copy the lines of standard output and standard error to a path as well.

    Args:
        path: Of a file or pipe; None, or one that cannot be opened: nothing is copied.
    """
    try:
        copy = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC) if path else None
    except OSError:
        copy = None
    if copy is None:
        yield
        return
    streams = sys.stdout, sys.stderr
    copied = [_Copied(stream, copy) for stream in streams]
    sys.stdout, sys.stderr = copied
    try:
        yield
    finally:
        sys.stdout, sys.stderr = streams
        for stream in copied:
            stream.detach_copy()
        os.close(copy)


class _Copied(io.TextIOBase):
    """A stream whose whole lines also go to a file descriptor."""

    def __init__(self, stream: TextIO, copy: int) -> None:
        self._stream, self._begun = stream, ""
        self._copy: int | None = copy

    def write(self, text: str) -> int:
        """Write; a line that is not yet whole is copied when it is."""
        *lines, self._begun = (self._begun + text).split("\n")
        if self._copy is not None:
            for line in lines:
                with contextlib.suppress(OSError):  # the reader is slow, or gone
                    os.write(self._copy, line.encode(errors="replace")[: MAX_LINE_BYTES - 1] + b"\n")
        return self._stream.write(text)

    def detach_copy(self) -> None:
        """Copy nothing from now on: whoever kept this stream, a logger perhaps, may still write."""
        self._copy = None

    def flush(self) -> None:
        """Flush the stream; the copy has no buffer."""
        self._stream.flush()

    def isatty(self) -> bool:
        """Whether a person looks on."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """Of the stream: processes that inherit it are not copied."""
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self._stream.encoding
