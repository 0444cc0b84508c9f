"""Numbers and times as people read them; the same form in the progress bar, the status and the report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

from llm360.storage.open import without_credentials

_STEPS_OF_COUNT = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_STEPS_OF_BYTES = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def short_count(value: float) -> str:
    """Three significant digits with k, M, B or T: `2.56M`, `999`, `1.00k`."""
    for unit, letter in _STEPS_OF_COUNT:
        # 999.6k would round to "1000k"; it is 1.00M.
        if abs(value) >= unit * 0.9995:
            return f"{_three_digits(value / unit)}{letter}"
    return f"{value:.0f}"


def short_bytes(value: float) -> str:
    """Three significant digits with KiB … TiB: `1.21 GiB`, `512 B`."""
    for unit, name in _STEPS_OF_BYTES:
        if abs(value) >= unit:
            return f"{_three_digits(value / unit)} {name}"
    return f"{value:.0f} B"


def _three_digits(value: float) -> str:
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{min(digits, 2)}f}"


def duration(seconds: float | None) -> str:
    """Its two greatest units: `8s`, `1m23s`, `3h05m`, `12d04h`; `unknown` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "unknown"
    total = max(0, round(seconds))
    days, hours, minutes, rest = total // 86400, total // 3600 % 24, total // 60 % 60, total % 60
    if days:
        return f"{days}d{hours:02d}h"
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def utc(time: datetime) -> str:
    """`2026-01-02 03:04:05 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC")


def short_digest(digest: str) -> str:
    """The first 12 hex digits: enough to recognise, never enough to check."""
    return digest.removeprefix("sha256:")[:12]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 attempt`, `2 attempts`, `1,200 steps`; `plural` where an s does not make it."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def address_of(uri: str) -> str:
    """An address as a person types it and may read it: a folder without `file://`, a server without password."""
    return without_credentials(uri.removeprefix("file://"))


def aligned(lines: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
