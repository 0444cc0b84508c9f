"""Which rows a step reads: a pure function of the prepared data and the step.

Neither the world size, nor a restart, nor timing enters here, so every run over the same data reads the same
rows in the same order, and anyone can compute them without running anything.

    prepared chunks      |--- chunk 0 ---|--- chunk 1 ---|--- chunk 2 ---|
    remainder: drop      |s0 |s1 |s2 |  x|s3 |s4 |s5 |  x|s6 |s7 |s8 |  x|    x: never read
    remainder: carry     |s0 |s1 |s2 |s3 |s4 |s5 |s6 |s7 |s8 |s9 |s10|  x|

Both are one rule: a chunk contributes either whole batches only (drop, as Amber trained: 762 steps of 2,240
rows from a chunk of 1,706,976, 96 rows left over) or all its rows (carry, as Pythia trained). What the chunks
contribute, put end to end, is the *stream*; step s reads its rows [s * B, (s + 1) * B).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Literal, NamedTuple

from llm360.errors import InputError


class RowRange(NamedTuple):
    """Rows [start, stop) of a chunk, counted from the chunk's first row."""

    chunk: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many rows the range holds."""
        return self.stop - self.start


@dataclass(frozen=True)
class StageOrder:
    """The order in which one stage reads its prepared rows.

    Args:
        chunk_rows: Rows of every chunk, in training order.
        batch_rows: Rows (sequences) that one optimizer step reads, over all ranks.
        remainder: What becomes of a chunk's rows that fill no batch: `drop` never reads them, `carry` reads
            them together with the next chunk's first rows.

    Raises:
        InputError: no chunks, an empty chunk, a batch below one row, or a batch that the data cannot fill.
    """

    chunk_rows: tuple[int, ...]
    batch_rows: int
    remainder: Literal["drop", "carry"] = "drop"

    def __post_init__(self) -> None:
        if self.batch_rows < 1:
            raise InputError(f"a batch has {self.batch_rows} rows; it must have at least 1")
        if self.remainder not in ("drop", "carry"):
            raise InputError(f"remainder is '{self.remainder}'; allowed are 'drop' and 'carry'")
        if not self.chunk_rows:
            raise InputError("the data has no chunks, so there is nothing to train on; prepare it again")
        for chunk, rows in enumerate(self.chunk_rows):
            if rows < 1:
                raise InputError(f"chunk {chunk} of the data has {rows} rows; a chunk must have at least 1")
            if self.remainder == "drop" and rows < self.batch_rows:
                raise InputError(
                    f"a batch of {self.batch_rows} rows is larger than chunk {chunk} with {rows} rows, which would"
                    " give no step under 'remainder: drop'; use a smaller batch, fewer chunks or 'remainder: carry'"
                )
        if self.num_steps == 0:
            raise InputError(
                f"a batch of {self.batch_rows} rows is larger than all the data with {sum(self.chunk_rows)} rows,"
                " so there would be no step; use a smaller batch or prepare more data"
            )

    @cached_property
    def _ends(self) -> tuple[int, ...]:
        """For each chunk, where its contribution to the stream ends (its rows' cumulative number)."""
        if self.remainder == "carry":
            return tuple(accumulate(self.chunk_rows))
        return tuple(accumulate(rows - rows % self.batch_rows for rows in self.chunk_rows))

    @property
    def num_steps(self) -> int:
        """Steps of the stage; a last batch that is not full is no step."""
        return self._ends[-1] // self.batch_rows

    def step_rows(self, step: int) -> tuple[RowRange, ...]:
        """Rows of a step in their order; more than one range only where the step crosses into a next chunk.

        Raises:
            InputError: the stage has no such step.
        """
        self._check_step(step)
        return self._ranges(step * self.batch_rows, (step + 1) * self.batch_rows)

    def rank_rows(self, step: int, rank: int, world: int) -> tuple[RowRange, ...]:
        """The part of a step that one rank reads: contiguous, and in the order of the ranks the whole step.

        With B rows and W ranks each gets ⌊B/W⌋ rows and the first B mod W one more; a rank beyond B gets none.

        Raises:
            InputError: the stage has no such step, or the world no such rank.
        """
        self._check_step(step)
        if not 0 <= rank < world:
            raise InputError(f"rank {rank} does not exist in a world of {world}; ranks count from 0")
        share, longer = divmod(self.batch_rows, world)
        start = step * self.batch_rows + rank * share + min(rank, longer)
        return self._ranges(start, start + share + (rank < longer))

    def rows_between(self, first_step: int, last_step: int) -> list[RowRange]:
        """Rows of the steps [first_step, last_step) in their order, one range per chunk that they touch.

        Raises:
            InputError: the stage does not have these steps.
        """
        if not 0 <= first_step <= last_step <= self.num_steps:
            raise InputError(f"steps [{first_step}, {last_step}) are not within the stage's [0, {self.num_steps})")
        return list(self._ranges(first_step * self.batch_rows, last_step * self.batch_rows))

    def chunk_of(self, step: int) -> int:
        """The chunk that holds a step's first row.

        Raises:
            InputError: the stage has no such step.
        """
        self._check_step(step)
        return bisect_right(self._ends, step * self.batch_rows)

    def finished_chunks(self, finished_steps: int) -> int:
        """How many chunks are read to their end (as far as they are ever read) after this many steps."""
        if finished_steps >= self.num_steps:
            return len(self.chunk_rows)
        return bisect_right(self._ends, finished_steps * self.batch_rows)

    def chunk_end_steps(self) -> list[int]:
        """For each chunk after how many finished steps it is read to its end (see `is_chunk_end`)."""
        return [min(-(-end // self.batch_rows), self.num_steps) for end in self._ends]

    def is_chunk_end(self, finished_steps: int) -> bool:
        """Whether the last of `finished_steps` steps read a chunk to its end."""
        return 0 < finished_steps <= self.num_steps and (
            self.finished_chunks(finished_steps) > self.finished_chunks(finished_steps - 1)
        )

    def _check_step(self, step: int) -> None:
        if not 0 <= step < self.num_steps:
            raise InputError(f"step {step} does not exist; the stage has the steps 0 to {self.num_steps - 1}")

    def _ranges(self, start: int, stop: int) -> tuple[RowRange, ...]:
        """The chunks' rows behind [start, stop) of the stream."""
        ranges = []
        chunk = bisect_right(self._ends, start)
        while start < stop:
            chunk_start = self._ends[chunk - 1] if chunk else 0
            end = min(stop, self._ends[chunk])
            ranges.append(RowRange(chunk, start - chunk_start, end - chunk_start))
            start, chunk = end, chunk + 1
        return tuple(ranges)


def largest_share(batch_rows: int, world: int) -> int:
    """Rows ⌈B/W⌉ of the ranks that read most; every rank pads its part to this."""
    return -(-batch_rows // world)


def micro_steps(rows: int, micro_batch: int) -> int:
    """Micro steps that `rows` rows need, `micro_batch` at a time.

    All ranks run the number that the largest share needs (`largest_share`), so that their communication pairs
    up; rows that a rank lacks are padding of weight 0.

    Raises:
        InputError: a micro batch below one row.
    """
    if micro_batch < 1:
        raise InputError(f"a micro batch has {micro_batch} rows; it must have at least 1")
    return -(-rows // micro_batch)
