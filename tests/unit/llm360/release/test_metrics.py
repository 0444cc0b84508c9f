from __future__ import annotations

import io
import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm360.canonical import sha256_digest
from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.release.entries import Attempt, EntryDraft, Genesis, Metrics, Rewind
from llm360.release.entry import Entry
from llm360.release.history import History
from llm360.release.layout import metrics_key
from llm360.release.metrics import (
    SCHEMA,
    StepRecord,
    read_segment,
    read_segments,
    run_table,
    write_segment,
)

ENVIRONMENT = "sha256:" + "e" * 64
START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@dataclass
class Store:
    """As much of a storage as the reader needs."""

    objects: dict[str, bytes] = field(default_factory=dict)

    def get(self, key: str) -> bytes:
        if key not in self.objects:
            raise ObjectNotFoundError(f"'{key}' does not exist")
        return self.objects[key]

    def commit(self, records: list[StepRecord]) -> Metrics:
        attempt, first, last = records[0].attempt, records[0].step, records[-1].step
        data = write_segment(records)
        key = metrics_key(attempt, first, last, sha256_digest(data))
        return self.put(key, data, attempt, first, last)

    def put(self, key: str, data: bytes, attempt: int = 1, first: int = 1, last: int = 1) -> Metrics:
        self.objects[key] = data
        digests = {"segment": sha256_digest(data), "environment": ENVIRONMENT}
        return Metrics(
            attempt=attempt, step=last, tokens=0, first_step=first, key=key, bytes=len(data), digests=digests
        )


def chain(*bodies: EntryDraft) -> History:
    genesis = Genesis(digests={"config": "sha256:" + "0" * 64})
    return History.from_entries(
        Entry(seq, None, f"{seq:032x}", "2026-01-02T03:04:05.000000Z", body)
        for seq, body in enumerate([genesis, *bodies])
    )


def claim(attempt: int, step: int = 0) -> Attempt:
    return Attempt(attempt=attempt, step=step, tokens=0, world_size=1, device="cpu", operations={})


def rewind(attempt: int, step: int, from_step: int) -> Rewind:
    return Rewind(attempt=attempt, step=step, tokens=0, from_step=from_step, reason="the loss is NaN")


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
    key = metrics_key(3, 763, 1524, "sha256:" + "0123456789abcdef" * 4)

    assert key == "metrics/a003/763-1524-0123456789ab.parquet"


def test_changed_segment_is_refused_before_it_is_parsed(store):
    segment = store.commit([record(1)])
    store.objects[segment.key] += b"!"

    with pytest.raises(IntegrityError, match=r"metrics/a001/.* the ledger names sha256:"):
        read_segment(store, segment)


def test_segment_that_is_no_table_is_refused(store):
    segment = store.put("metrics/a001/x.parquet", b"not parquet")

    with pytest.raises(IntegrityError, match="not a table of step records"):
        read_segment(store, segment)


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_segment_that_unfolds_to_more_than_its_size_allows_is_refused_before_it_is_read(store, monkeypatch):
    segment = store.commit([record(step) for step in (1, 2, 3)])
    monkeypatch.setattr("llm360.data.parquet.LEAST_LIMIT", 100)
    monkeypatch.setattr("llm360.data.parquet.LARGEST_RATIO", 0)

    with pytest.raises(IntegrityError, match="would unfold to"):
        read_segment(store, segment)


def test_segment_with_a_column_missing_is_refused(store):
    table = pq.read_table(io.BytesIO(write_segment([record(1)])))
    segment = store.put("metrics/a001/x.parquet", parquet(table.drop_columns(["loss"])))

    with pytest.raises(IntegrityError, match="not a table of step records"):
        read_segment(store, segment)


def test_segment_with_a_column_of_a_later_version_is_read(store):
    table = pq.read_table(io.BytesIO(write_segment([record(1)])))
    segment = store.put("metrics/a001/x.parquet", parquet(table.append_column("watts", pa.array([700.0]))))

    assert read_segment(store, segment).schema == SCHEMA


def test_segment_of_another_attempt_than_its_entry_says_is_refused(store):
    segment = store.put("metrics/a002/x.parquet", write_segment([record(1, attempt=1)]), attempt=2)

    with pytest.raises(IntegrityError, match="records of other attempts than 2"):
        read_segment(store, segment)


@pytest.mark.parametrize("steps", [(1, 2), (2, 3, 4), (1, 3), (1, 2, 2, 3), (3, 2, 1)])
def test_segment_that_holds_other_steps_than_its_entry_says_is_refused(store, steps):
    data = write_segment([record(step) for step in steps])
    segment = store.put("metrics/a001/x.parquet", data, first=1, last=3)

    with pytest.raises(IntegrityError, match=r"for each of the steps 1–3|expected 3"):
        read_segment(store, segment)


def test_missing_segment_is_named(store):
    segment = store.commit([record(1)])
    del store.objects[segment.key]

    with pytest.raises(ObjectNotFoundError, match=r"metrics/a001/1-1-"):
        read_segment(store, segment)


def test_no_segments_give_a_table_without_rows(store):
    assert read_segments(store, []).schema == SCHEMA
    assert run_table(store, chain(claim(1))).num_rows == 0


def test_newest_attempt_owns_a_step_and_older_records_stay_readable(store):
    history = chain(
        claim(1),
        store.commit([record(s, 1) for s in (1, 2)]),
        store.commit([record(s, 1) for s in (3, 4, 5)]),
        claim(2, step=3),
        store.commit([record(s, 2) for s in (4, 5, 6)]),
    )

    assert steps_of(run_table(store, history)) == [(1, 1), (1, 2), (1, 3), (2, 4), (2, 5), (2, 6)]
    everything = steps_of(run_table(store, history, all_attempts=True))
    assert everything == [(1, 1), (1, 2), (1, 3), (1, 4), (1, 5), (2, 4), (2, 5), (2, 6)]


def test_attempt_without_records_yet_takes_back_what_it_did_not_resume_from(store):
    history = chain(claim(1), store.commit([record(s) for s in (1, 2, 3, 4)]), claim(2, step=3))

    assert steps_of(run_table(store, history)) == [(1, 1), (1, 2), (1, 3)]


def test_rewind_within_an_attempt_keeps_the_later_record(store):
    history = chain(
        claim(1),
        store.commit([record(1), record(2), record(3, loss=math.nan)]),
        rewind(1, step=1, from_step=3),
        store.commit([record(2, loss=0.25)]),
    )

    assert run_table(store, history)["loss"].to_pylist() == [1.0, 0.25]


def test_run_of_many_attempts_is_what_a_replay_gives(store):
    """Each attempt resumes from some step that the run had then, and makes some more."""
    entries: list[EntryDraft] = []
    run: list[tuple[int, int]] = []
    for attempt, (start, length) in enumerate([(0, 5), (3, 1), (4, 7), (2, 2), (4, 1), (0, 3), (3, 4)], start=1):
        entries.append(claim(attempt, start))
        entries.append(store.commit([record(start + i, attempt) for i in range(1, length + 1)]))
        run = run[:start] + [(attempt, start + i) for i in range(1, length + 1)]

    assert steps_of(run_table(store, chain(*entries))) == run


def test_last_steps_are_read_without_the_earlier_segments(store):
    early, late = store.commit([record(1), record(2)]), store.commit([record(3), record(4)])
    history = chain(claim(1), early, late)
    del store.objects[early.key]

    assert steps_of(run_table(store, history, first_step=4)) == [(1, 4)]
    assert steps_of(run_table(store, history, first_step=4, all_attempts=True)) == [(1, 4)]
