"""Grafana's units, as far as the dashboards use them, in words and numbers of our own charts."""

from __future__ import annotations

import math
from typing import NamedTuple

from llm360.report.text import duration, short_bytes, short_count


class Scale(NamedTuple):
    """How an axis says its values: times a factor, with a symbol in the chart's title."""

    factor: float = 1.0
    symbol: str = ""


_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (1, "B"))
_STEPS = {
    "percentunit": ((0, 0.01, "%"),),
    "s": ((86400, 86400, "d"), (3600, 3600, "h"), (60, 60, "min"), (1, 1, "s"), (0, 1e-3, "ms")),
    "h": ((0, 1, "h"),),
    "hertz": ((1e9, 1e9, "GHz"), (0, 1e6, "MHz")),
    "celsius": ((0, 1, "°C"),),
    "ops": ((0, 1, "per second"),),
    "reqps": ((0, 1, "per second"),),
    "bytes": tuple((size if size > 1 else 0, size, name) for size, name in _BYTES),
    "Bps": tuple((size if size > 1 else 0, size, f"{name}/s") for size, name in _BYTES),
}
"""By unit: from which greatest value on, how much of the unit one of the axis is, and its symbol."""

UNITS = _STEPS.keys() | {"none", "short", "sci", "bool_yes_no"}
"""All that are known; the last have no symbol."""


def scale_of(unit: str, greatest: float) -> Scale:
    """The scale of an axis whose greatest magnitude is given; numbers without a unit stay as they are."""
    for least, size, symbol in _STEPS.get(unit, ()):
        if greatest >= least:
            return Scale(1 / size, symbol)
    return Scale()


def say(unit: str, value: float) -> str:
    """One value, as a panel with one number says it."""
    if not math.isfinite(value):
        return str(value)
    match unit:
        case "percentunit":
            return f"{100 * value:.1f}%"
        case "s" if value >= 10 or not value:
            return duration(value)
        case "bytes":
            return short_bytes(value)
        case "short":
            return short_count(value)
        case "bool_yes_no":
            return "yes" if value else "no"
    symbol = scale_of(unit, abs(value)).symbol
    return f"{value * scale_of(unit, abs(value)).factor:,.4g} {symbol}".rstrip()
