"""Every step's record, kept as Parquet segments that `metrics` entries of the ledger name.

A segment holds the records of one attempt in the order in which its steps finished. Restarts and rewinds write
a step more than once; all records stay readable, and `run_table` says which of them are the run's:

    attempt 1      1 2 3 4 5 6 7 8            killed after step 8; the last checkpoint is that of step 4
    attempt 2              5 6 7 8 9 10 …     resumes from it
    the run's      1 2 3 4 5 6 7 8 9 10 …     1–4 of attempt 1, all others of attempt 2

Nothing is parsed before its digest is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llm360.canonical import sha256_digest
from llm360.errors import IntegrityError
from llm360.release.layout import metrics_key

if TYPE_CHECKING:
    from llm360.storage import Storage

FORMAT = "llm360-metrics/1"

# Segments are small (5 minutes of steps); what reading them takes is round trips.
PARALLEL_READS = 16

_FIELDS: list[pa.Field[Any]] = [
    pa.field("step", pa.int64(), nullable=False),
    pa.field("attempt", pa.int32(), nullable=False),
    pa.field("stage", pa.int32(), nullable=False),
    pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
    pa.field("tokens", pa.int64(), nullable=False),
    pa.field("loss", pa.float64(), nullable=False),
    pa.field("source_loss", pa.map_(pa.string(), pa.float64()), nullable=False),
    pa.field("source_tokens", pa.map_(pa.string(), pa.int64()), nullable=False),
    pa.field("learning_rate", pa.float64(), nullable=False),
    pa.field("grad_norm", pa.float64(), nullable=False),
    pa.field("step_seconds", pa.float64(), nullable=False),
    pa.field("tokens_per_second", pa.float64(), nullable=False),
    pa.field("mfu", pa.float64()),
    pa.field("data_wait_seconds", pa.float64(), nullable=False),
    pa.field("checkpoint_stall_seconds", pa.float64(), nullable=False),
    pa.field("memory_bytes", pa.int64(), nullable=False),
    pa.field("skipped", pa.bool_(), nullable=False),
]
SCHEMA = pa.schema(_FIELDS, metadata={"format": FORMAT})


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What is known about one finished optimizer step.

    Attributes:
        step: Finished optimizer steps, this one included: the first record of a run says 1.
        attempt: The attempt that made it.
        stage: Index of the data stage it read, from 0.
        time: When it finished, in UTC.
        tokens: Predictions trained on since the run began, this step's included.
        loss: Mean over the step's real tokens, in nats. NaN or infinite where that is what came out.
        source_loss: The same mean for each source that had tokens in the step.
        source_tokens: Those tokens, by source.
        learning_rate: The rate that this step used.
        grad_norm: Global L2 norm of the gradient before clipping.
        step_seconds: From the end of the step before to the end of this one.
        tokens_per_second: This step's tokens per `step_seconds`, over all workers.
        mfu: Model FLOPs utilisation, 0–1; None where the device's peak is unknown.
        data_wait_seconds: Of `step_seconds`, waiting for data (the slowest worker).
        checkpoint_stall_seconds: Of `step_seconds`, blocked by a checkpoint.
        memory_bytes: Peak memory of the worker that used most: device memory, or resident memory on CPU.
        skipped: The optimizer did not apply this step (a non-finite loss or gradient, or a skip on purpose).
    """

    step: int
    attempt: int
    stage: int
    time: datetime
    tokens: int
    loss: float
    source_loss: Mapping[str, float] = field(default_factory=dict)
    source_tokens: Mapping[str, int] = field(default_factory=dict)
    learning_rate: float
    grad_norm: float
    step_seconds: float
    tokens_per_second: float
    mfu: float | None = None
    data_wait_seconds: float = 0.0
    checkpoint_stall_seconds: float = 0.0
    memory_bytes: int = 0
    skipped: bool = False


class Segment(Protocol):
    """What a `metrics` entry says of the segment that it names; steps are the least and the greatest in it."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def digest(self) -> str: ...  # noqa: D102
    @property
    def attempt(self) -> int: ...  # noqa: D102
    @property
    def first_step(self) -> int: ...  # noqa: D102
    @property
    def last_step(self) -> int: ...  # noqa: D102


def write_segment(records: Sequence[StepRecord]) -> bytes:
    """The Parquet bytes of the records, in their order; the same records give the same bytes.

    Args:
        records: At least one, all of one attempt.

    Raises:
        ValueError: no records, or records of several attempts.
    """
    if len({record.attempt for record in records}) != 1:
        raise ValueError(f"a segment holds records of one attempt, got {sorted({r.attempt for r in records})}")
    columns = {name: [_cell(record, name) for record in records] for name in SCHEMA.names}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns, schema=SCHEMA), sink, compression="zstd", version="2.6")
    return sink.getvalue().to_pybytes()


def _cell(record: StepRecord, name: str) -> Any:
    value = getattr(record, name)
    return sorted(value.items()) if isinstance(value, Mapping) else value


def segment_key(attempt: int, first: int, last: int, digest: str) -> str:
    """The key of the segment of an attempt whose least and greatest steps and whose digest these are."""
    return metrics_key(attempt, first, last, digest)


def read_segment(storage: Storage, segment: Segment) -> pa.Table:
    """One segment's records, checked against the digest and against what its entry says of it.

    Raises:
        ObjectNotFoundError: the segment is missing.
        IntegrityError: its bytes or its contents are not those that the ledger names.
    """
    data = storage.get(segment.key)
    if (digest := sha256_digest(data)) != segment.digest:
        raise IntegrityError(
            f"metrics segment '{segment.key}' has the digest {digest}, but the ledger names {segment.digest};"
            " it was changed after it was committed"
        )
    try:
        # `columns` leaves out what a later version may add.
        table = pq.read_table(pa.BufferReader(data), columns=SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise IntegrityError(f"metrics segment '{segment.key}' is not a table of step records: {error}") from error
    found = _extent(table)
    if found != (segment.attempt, segment.attempt, segment.first_step, segment.last_step):
        raise IntegrityError(
            f"metrics segment '{segment.key}' holds steps {found[2]}–{found[3]} of attempt {found[0]}, but the ledger"
            f" says steps {segment.first_step}–{segment.last_step} of attempt {segment.attempt}"
        )
    return table


def _extent(table: pa.Table) -> tuple[int | None, int | None, int | None, int | None]:
    attempt: Any = pc.min_max(table["attempt"]).as_py()
    step: Any = pc.min_max(table["step"]).as_py()
    return attempt["min"], attempt["max"], step["min"], step["max"]


def read_segments(storage: Storage, segments: Iterable[Segment]) -> pa.Table:
    """The records of the segments, one after the other in the order given; no segments give no rows.

    Raises:
        ObjectNotFoundError: a segment is missing.
        IntegrityError: a segment's bytes or contents are not those that the ledger names.
    """
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        tables = list(pool.map(lambda segment: read_segment(storage, segment), segments))
    return pa.concat_tables([SCHEMA.empty_table(), *tables])


class MetricsHistory(Protocol):
    """The part of a run's history that says which records are the run's."""

    @property
    def metrics(self) -> Sequence[Segment]:
        """The committed segments in the order of the ledger."""
        ...

    @property
    def resumed_steps(self) -> Mapping[int, int]:
        """For each attempt the step of the state that it last took up: of its start, or of its last rewind."""
        ...


def run_table(storage: Storage, history: MetricsHistory, *, all_attempts: bool = False) -> pa.Table:
    """The run's records in the order of steps, each step once; or all records in the order they were made.

    Args:
        storage: The release.
        history: What its ledger says.
        all_attempts: Also the records that a later attempt or a rewind replaced, in the order of the ledger.

    Raises:
        ObjectNotFoundError: a segment is missing.
        IntegrityError: a segment's bytes or contents are not those that the ledger names.
    """
    segments = sorted(history.metrics, key=lambda segment: segment.attempt)
    table = read_segments(storage, segments)
    if all_attempts:
        return table
    attempts, steps = table["attempt"].to_numpy().astype(np.int64), table["step"].to_numpy()
    return table.filter(pa.array(current_rows(attempts, steps, history.resumed_steps)))


def current_rows(
    attempts: npt.NDArray[np.int64], steps: npt.NDArray[np.int64], resumed_steps: Mapping[int, int]
) -> npt.NDArray[np.bool_]:
    """Which of the rows are the run's: those that nothing later took back.

    A row takes back all earlier rows of its step and of later steps; the start of an attempt takes back all rows
    beyond the step that it resumed from, even before its own first row is committed.

    Args:
        attempts: int[rows], ascending; within an attempt the rows are in the order in which they were made.
        steps: int[rows].
        resumed_steps: For each attempt the step that it (last) resumed from.

    Returns:
        bool[rows]; the rows that are true have strictly ascending steps.
    """
    never = np.iinfo(np.int64).max
    # limit[i]: the least step that anything after row i made or took back.
    following = np.append(steps[1:], never) if len(steps) else steps
    limit = np.minimum.accumulate(following[::-1])[::-1]
    for attempt, step in resumed_steps.items():
        limit = np.where(attempts < attempt, np.minimum(limit, step + 1), limit)
    return steps < limit
