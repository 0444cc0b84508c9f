"""From step records to series that can be drawn: columns of maps, smoothing, thinning that hides no extreme."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Floats = npt.NDArray[np.float64]

# A chart is about 1,000 device pixels wide: more points than two per pixel cannot be told apart.
MAX_POINTS = 2000

# Smoothing reaches over this part of the run to either side.
SMOOTHING_FRACTION = 0.01
MIN_REACH = 5

# The mixture is drawn as the shares of so many intervals of the run.
MIXTURE_INTERVALS = 80


class Series(NamedTuple):
    """Points in ascending x; y is NaN where there is no value."""

    x: Floats
    y: Floats

    def finite(self) -> Series:
        """Only the points that have a finite value."""
        keep = np.isfinite(self.y)
        return Series(self.x[keep], self.y[keep])


def column(table: pa.Table, name: str) -> Floats:
    """A numeric column as float64[rows]; null becomes NaN."""
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def map_columns(table: pa.Table, name: str) -> dict[str, Floats]:
    """A `map<string, number>` column as float64[rows] per key, NaN in rows that lack the key; keys sorted."""
    entries: Any = table[name].combine_chunks()
    if isinstance(entries, pa.ChunkedArray):  # no rows: nothing to combine
        return {}
    lengths = np.diff(entries.offsets.to_numpy())
    rows = np.repeat(np.arange(table.num_rows), lengths)
    first, last = entries.offsets[0].as_py(), entries.offsets[-1].as_py()
    keys = entries.keys[first:last].dictionary_encode()
    codes, items = keys.indices.to_numpy(), entries.items[first:last].to_numpy(zero_copy_only=False)
    columns = {}
    for code, key in enumerate(keys.dictionary.to_pylist()):
        values = np.full(table.num_rows, np.nan)
        values[rows[codes == code]] = items[codes == code]
        columns[key] = values
    return dict(sorted(columns.items()))


def smoothing_reach(num_points: int) -> int:
    """How many points to either side `smooth` takes in, so that it covers the same part of any run."""
    return max(MIN_REACH, round(num_points * SMOOTHING_FRACTION))


def smooth(series: Series, reach: int) -> Series:
    """The mean of up to `reach` finite points to either side; fewer, but equally many on both, near the ends.

    The window stays symmetric: a curve that falls is not dragged up at its start nor delayed.
    """
    x, y = series.finite()
    if not len(y):
        return Series(x, y)
    position = np.arange(len(y))
    half = np.minimum(reach, np.minimum(position, len(y) - 1 - position))
    total = np.concatenate([[0.0], np.cumsum(y)])
    return Series(x, (total[position + half + 1] - total[position - half]) / (2 * half + 1))


def thin(series: Series, max_points: int = MAX_POINTS) -> Series:
    """At most `max_points` of the points: the least and the greatest of each of equally long intervals of x.

    No peak and no dip is lost. The first and the last point stay. Points without a value are left out.
    """
    x, y = series.finite()
    if len(y) <= max_points:
        return Series(x, y)
    num_intervals = max(1, (max_points - 2) // 2)
    scaled = (x - x[0]) / (x[-1] - x[0]) * num_intervals
    interval = np.minimum(scaled.astype(np.int64), num_intervals - 1)
    # Sorted by interval, then by value: the first and the last of each interval are its extremes.
    order = np.lexsort((y, interval))
    starts = np.flatnonzero(np.diff(interval[order], prepend=-1))
    ends = np.append(starts[1:], len(order)) - 1
    keep = np.unique(np.concatenate([[0, len(y) - 1], order[starts], order[ends]]))
    return Series(x[keep], y[keep])


class Mixture(NamedTuple):
    """Shares of the tokens by source, over intervals of the run.

    edges[i] to edges[i + 1] are the steps of interval i; shares maps a source to float64[intervals] in 0–1.
    """

    edges: Floats
    shares: dict[str, Floats]


def mixture(steps: Floats, source_tokens: dict[str, Floats], max_intervals: int = MIXTURE_INTERVALS) -> Mixture:
    """What part of the tokens each source gave, interval by interval; intervals without tokens share nothing."""
    num_intervals = min(max_intervals, len(steps))
    if not num_intervals or not source_tokens:
        return Mixture(np.empty(0), {})
    cuts = np.linspace(0, len(steps), num_intervals + 1).astype(np.int64)
    sums = {name: np.add.reduceat(np.nan_to_num(tokens), cuts[:-1]) for name, tokens in source_tokens.items()}
    total = np.maximum(sum(sums.values(), np.zeros(num_intervals)), 1.0)
    edges = np.append(steps[cuts[:-1]] - 1, steps[-1])
    return Mixture(edges, {name: tokens / total for name, tokens in sums.items()})
