from __future__ import annotations

import io
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.canonical import sha256_digest
from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.release.metrics import (
    SCHEMA,
    StepRecord,
    current_rows,
    read_segment,
    read_segments,
    run_table,
    segment_key,
    write_segment,
)

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@dataclass(frozen=True)
class NamedSegment:
    key: str
    digest: str
    attempt: int
    first_step: int
    last_step: int


@dataclass
class Store:
    """As much of a storage as the reader needs."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectNotFoundError(f"'{key}' does not exist")
        return self.objects[key]

    def commit(self, records: list[StepRecord]) -> NamedSegment:
        data = write_segment(records)
        steps = [record.step for record in records]
        digest = sha256_digest(data)
        key = segment_key(records[0].attempt, min(steps), max(steps), digest)
        self.objects[key] = data
        return NamedSegment(key, digest, records[0].attempt, min(steps), max(steps))


@dataclass
class RunHistory:
    metrics: list[NamedSegment]
    resumed_steps: dict[int, int]


@pytest.fixture
def store() -> Store:
    return Store()


def record(step: int, attempt: int = 1, **changes) -> StepRecord:
    made = StepRecord(
        step=step,
        attempt=attempt,
        stage=0,
        time=START + timedelta(seconds=step),
        tokens=step * 1000,
        loss=1 / step,
        source_loss={"wiki": 0.5, "code": 1.5},
        source_tokens={"wiki": 700, "code": 300},
        learning_rate=3e-4,
        grad_norm=0.9,
        step_seconds=0.25,
        tokens_per_second=4000.0,
        mfu=None,
        data_wait_seconds=0.001,
        checkpoint_stall_seconds=0.0,
        memory_bytes=123,
        skipped=False,
    )
    return replace(made, **changes)


def steps_of(table: pa.Table) -> list[tuple[int, int]]:
    return list(zip(table["attempt"].to_pylist(), table["step"].to_pylist(), strict=True))


def test_segment_holds_every_field_of_every_record(store):
    segment = store.commit([record(1), record(2, loss=math.inf, mfu=0.41, skipped=True)])

    rows = read_segment(store, segment).to_pylist()

    assert rows[0] == {
        "step": 1,
        "attempt": 1,
        "stage": 0,
        "time": START + timedelta(seconds=1),
        "tokens": 1000,
        "loss": 1.0,
        "source_loss": [("code", 1.5), ("wiki", 0.5)],
        "source_tokens": [("code", 300), ("wiki", 700)],
        "learning_rate": 3e-4,
        "grad_norm": 0.9,
        "step_seconds": 0.25,
        "tokens_per_second": 4000.0,
        "mfu": None,
        "data_wait_seconds": 0.001,
        "checkpoint_stall_seconds": 0.0,
        "memory_bytes": 123,
        "skipped": False,
    }
    assert (rows[1]["loss"], rows[1]["mfu"], rows[1]["skipped"]) == (math.inf, 0.41, True)


def test_segment_bytes_depend_on_the_records_alone():
    one = write_segment([record(1, source_loss={"a": 1.0, "b": 2.0})])
    other = write_segment([record(1, source_loss={"b": 2.0, "a": 1.0})])

    assert one == other


def test_segment_is_readable_parquet_with_its_format_named():
    table = pq.read_table(io.BytesIO(write_segment([record(1)])))

    assert table.schema.equals(SCHEMA)
    assert table.schema.metadata[b"format"] == b"llm360-metrics/1"


@pytest.mark.parametrize("records", [[], [record(1, attempt=1), record(2, attempt=2)]], ids=["none", "two attempts"])
def test_segment_of_no_or_several_attempts_is_refused(records):
    with pytest.raises(ValueError, match="records of one attempt"):
        write_segment(records)


def test_key_names_attempt_steps_and_bytes():
    key = segment_key(3, 763, 1524, "sha256:" + "0123456789abcdef" * 4)

    assert key == "metrics/a003/763-1524-0123456789ab.parquet"


def test_changed_segment_is_refused_before_it_is_parsed(store):
    segment = store.commit([record(1)])
    store.objects[segment.key] += b"!"

    with pytest.raises(IntegrityError, match=r"metrics/a001/.* the ledger names sha256:"):
        read_segment(store, segment)


def test_segment_that_is_no_table_is_refused(store):
    data = b"not parquet"
    store.objects["x.parquet"] = data

    with pytest.raises(IntegrityError, match="not a table of step records"):
        read_segment(store, NamedSegment("x.parquet", sha256_digest(data), 1, 1, 1))


def test_segment_with_a_column_missing_is_refused(store):
    sink = io.BytesIO()
    pq.write_table(pq.read_table(io.BytesIO(write_segment([record(1)]))).drop_columns(["loss"]), sink)
    store.objects["x.parquet"] = sink.getvalue()

    with pytest.raises(IntegrityError, match="not a table of step records"):
        read_segment(store, NamedSegment("x.parquet", sha256_digest(sink.getvalue()), 1, 1, 1))


def test_segment_with_a_column_of_a_later_version_is_read(store):
    sink = io.BytesIO()
    table = pq.read_table(io.BytesIO(write_segment([record(1)])))
    pq.write_table(table.append_column("power_watts", pa.array([700.0])), sink)
    store.objects["x.parquet"] = sink.getvalue()

    assert read_segment(store, NamedSegment("x.parquet", sha256_digest(sink.getvalue()), 1, 1, 1)).schema == SCHEMA


@pytest.mark.parametrize("lie", [{"attempt": 2}, {"first_step": 2}, {"last_step": 9}])
def test_segment_that_holds_other_steps_than_its_entry_says_is_refused(store, lie):
    segment = replace(store.commit([record(1), record(2)]), **lie)

    with pytest.raises(IntegrityError, match="holds steps 1–2 of attempt 1, but the ledger says"):
        read_segment(store, segment)


def test_missing_segment_is_named(store):
    with pytest.raises(ObjectNotFoundError, match=r"metrics/a001/gone\.parquet"):
        read_segment(store, NamedSegment("metrics/a001/gone.parquet", "sha256:0", 1, 1, 1))


def test_no_segments_give_a_table_without_rows(store):
    assert read_segments(store, []).schema == SCHEMA
    assert run_table(store, RunHistory([], {1: 0})).num_rows == 0


def test_newest_attempt_owns_a_step_and_older_records_stay_readable(store):
    history = RunHistory(
        [
            store.commit([record(s, 1) for s in (1, 2)]),
            store.commit([record(s, 1) for s in (3, 4, 5)]),
            store.commit([record(s, 2) for s in (3, 4)]),
        ],
        {1: 0, 2: 2},
    )

    assert steps_of(run_table(store, history)) == [(1, 1), (1, 2), (2, 3), (2, 4)]
    assert steps_of(run_table(store, history, all_attempts=True)) == [
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (1, 5),
        (2, 3),
        (2, 4),
    ]


def test_attempt_without_records_yet_takes_back_what_it_did_not_resume_from(store):
    history = RunHistory([store.commit([record(s) for s in (1, 2, 3, 4)])], {1: 0, 2: 3})

    assert steps_of(run_table(store, history)) == [(1, 1), (1, 2), (1, 3)]


def test_segment_of_a_stopped_attempt_that_arrives_late_changes_nothing(store):
    late = store.commit([record(s, 1) for s in (3, 4, 5)])
    history = RunHistory(
        [store.commit([record(s, 1) for s in (1, 2)]), store.commit([record(3, 2)]), late], {1: 0, 2: 2}
    )

    assert steps_of(run_table(store, history)) == [(1, 1), (1, 2), (2, 3)]


def test_rewind_within_an_attempt_keeps_the_later_record(store):
    history = RunHistory([store.commit([record(1), record(2), record(3, loss=math.nan), record(2, loss=0.25)])], {1: 0})

    assert run_table(store, history)["loss"].to_pylist() == [1.0, 0.25]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), min_size=1, max_size=6))
def test_current_rows_are_those_of_a_replay(attempts):
    """Each attempt resumes from some step that the run had then and makes a number of steps."""
    made: list[tuple[int, int]] = []
    run: list[tuple[int, int]] = []
    resumed = {}
    for number, (start, length) in enumerate(attempts, start=1):
        resumed[number] = step = min(start, len(run))
        run = run[:step]
        rows = [(number, step + i + 1) for i in range(length)]
        made += rows
        run += rows

    rows = np.array(made, dtype=np.int64)
    kept = current_rows(rows[:, 0], rows[:, 1], resumed)

    assert [tuple(row) for row in rows[kept].tolist()] == run
