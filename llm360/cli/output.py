"""Standard output and error as a command meets them: readers that have gone, full disks, terminals of few letters."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from typing import TextIO

PIPE_CLOSED = 128 + 13
"""Exit code where the reader of the output has gone: as a shell reports SIGPIPE, so that no result is made up."""

WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)


def accept_any_letter() -> None:
    """Have standard output show `?` for what its encoding lacks: an ASCII terminal is no reason to say nothing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def stand_in_for_closed() -> None:
    """Have what whoever started this has closed (`>&-`, `2>&-`) take everything and show nothing.

    Otherwise what is said on standard error went to standard output, and the next file opened was either of them.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - to the end


def write_exact(data: bytes) -> None:
    """Write what programs read: no letter that a terminal lacks is replaced."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def tell_notices(name: str) -> None:
    """Print what a store says while it is waited for, on a line of its own also where progress is being shown."""
    logger = logging.getLogger("llm360.storage")
    if not logger.handlers:
        logger.addHandler(_Notices(name))


class _Notices(logging.Handler):
    def __init__(self, name: str) -> None:
        super().__init__(logging.WARNING)
        self.program = name

    def emit(self, record: logging.LogRecord) -> None:
        if sys.stderr is None:  # closed by whoever started this: `llm360 … 2>&-`
            return
        with contextlib.suppress(OSError, ValueError):  # a notice that nobody can read is no reason to end
            clear = "\r\x1b[K" if sys.stderr.isatty() else ""
            print(f"{clear}{self.program}: {record.getMessage()}", file=sys.stderr, flush=True)


def explain(error: OSError) -> str:
    """The sentence for a refusal of the system that no module below has explained."""
    text = error.strerror.lower() if error.strerror else str(error).strip().rpartition("\n")[2] or type(error).__name__
    if error.filename is not None:
        return f"{error.filename} cannot be used: {text}; check the path and this user's rights to it"
    if error.errno in WRITE_ERRORS:
        return f"the output cannot be written: {text}; send it elsewhere, or free some space"
    return f"the system refuses: {text}"


def drop() -> None:
    """Throw away what cannot be written any more; the interpreter would try again at its exit, and complain."""
    for stream in (sys.stdout, sys.stderr):
        if not _can_flush(stream):
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device
                os.dup2(nowhere.fileno(), stream.fileno())


def _can_flush(stream: TextIO) -> bool:
    try:
        stream.flush()
    except OSError:
        return False
    return True
