"""Every step's record, kept as Parquet segments that `metrics` entries of the ledger name.

A segment holds one record for each step of a range, made by one attempt. Restarts and rewinds make a step more
than once; all records stay readable, and `run_table` gives those that are the run's:

    attempt 1      1 2 3 4 5 6 7 8            killed after step 8; the last checkpoint is that of step 4
    attempt 2              5 6 7 8 9 10 …     resumes from it
    the run's      1 2 3 4 5 6 7 8 9 10 …     1–4 of attempt 1, all others of attempt 2

Nothing is parsed before its digest is checked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llm360.canonical import sha256_digest
from llm360.data.parquet import open_parquet
from llm360.errors import IntegrityError
from llm360.release.entries import Metrics
from llm360.release.history import History
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
        tokens: Predictions in the rows of all steps up to this one, skipped ones included: a function of the step.
        loss: Mean over the step's real tokens, in nats. NaN or infinite where that is what came out.
        source_loss: The same mean for each source that had tokens in the step.
        source_tokens: Those tokens, by source.
        learning_rate: The rate that this step used.
        grad_norm: Global L2 norm of the gradient before clipping.
        step_seconds: From the end of the step before to the end of this one.
        tokens_per_second: This step's tokens per `step_seconds`, over all workers.
        mfu: Model FLOPs utilisation, 0–1; None where the device's peak is unknown.
        data_wait_seconds: Of `step_seconds`, waiting for data, mean over workers.
        checkpoint_stall_seconds: Of `step_seconds`, blocked by a checkpoint.
        memory_bytes: Peak memory so far of the worker that used most, as they last said (every 5 s): device memory, or
            resident memory on CPU.
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


def read_segment(storage: Storage, entry: Metrics) -> pa.Table:
    """One segment's records, checked against the digest and against what its entry says of it.

    Raises:
        ObjectNotFoundError: the segment is missing.
        IntegrityError: its bytes or its contents are not those that the ledger names.
    """
    data = storage.get(entry.key)
    if (digest := sha256_digest(data)) != entry.digests.segment:
        raise IntegrityError(
            f"metrics segment '{entry.key}' has the digest {digest}, but the ledger names {entry.digests.segment};"
            " it was changed after it was committed"
        )
    try:
        file = open_parquet(data, entry.step - entry.first_step + 1)
        # `columns` leaves out what a later version may add.
        table = file.read(columns=SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, ValueError, KeyError) as error:
        raise IntegrityError(f"metrics segment '{entry.key}' is not a table of step records: {error}") from error
    if set(table["attempt"].to_pylist()) != {entry.attempt}:
        raise IntegrityError(f"metrics segment '{entry.key}' holds records of other attempts than {entry.attempt}")
    if not np.array_equal(table["step"].to_numpy(), np.arange(entry.first_step, entry.step + 1)):
        raise IntegrityError(
            f"metrics segment '{entry.key}' does not hold exactly one record, in order, for each of the steps"
            f" {entry.first_step}–{entry.step} that its ledger entry names"
        )
    return table


def read_segments(storage: Storage, entries: Iterable[Metrics]) -> pa.Table:
    """The records of the segments, one after the other in the order given; no segments give no rows.

    Raises:
        ObjectNotFoundError: a segment is missing.
        IntegrityError: a segment's bytes or contents are not those that the ledger names.
    """
    return pa.concat_tables([SCHEMA.empty_table(), *_read_all(storage, entries)])


def run_table(storage: Storage, history: History, *, first_step: int = 1, all_attempts: bool = False) -> pa.Table:
    """The run's records in the order of steps, each step once; or all records in the order they were made.

    The run's are those of the branch: a later attempt, a rewind or a fallback takes back every step beyond the
    one it resumed from, also before it has made that step anew.

    Args:
        storage: The release.
        history: What its ledger says.
        first_step: Steps before it are neither read nor given.
        all_attempts: Also the records that were taken back, in the order of the ledger.

    Raises:
        ObjectNotFoundError: a segment is missing.
        IntegrityError: a segment's bytes or contents are not those that the ledger names.
    """
    if all_attempts:
        entries = [entry.body for entry in history.entries if isinstance(entry.body, Metrics)]
        table = read_segments(storage, [entry for entry in entries if entry.step >= first_step])
        return table.filter(pc.field("step") >= first_step)
    segments = history.branch_segments(first_step, sys.maxsize)
    tables = _read_all(storage, [segment.body for segment in segments])
    kept = [
        table.slice(segment.first_step - segment.body.first_step, segment.last_step - segment.first_step + 1)
        for segment, table in zip(segments, tables, strict=True)
    ]
    table = pa.concat_tables([SCHEMA.empty_table(), *kept])
    return table.filter(pc.field("step") >= first_step)


def _read_all(storage: Storage, entries: Iterable[Metrics]) -> list[pa.Table]:
    with ThreadPoolExecutor(PARALLEL_READS) as pool:
        return list(pool.map(lambda entry: read_segment(storage, entry), entries))
