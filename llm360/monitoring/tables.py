"""Records of steps as tables that other programs read: CSV, JSON lines, Parquet and TensorBoard's events."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from llm360.errors import InputError
from llm360.release.metrics import SCHEMA, StepRecord
from llm360.report.series import map_columns
from llm360.storage import local

ROWS = 4096
"""Rows that are Python objects at a time."""

EVENT_FILE = "events.out.tfevents.llm360"
"""The one file that TensorBoard reads; it takes any name that holds `tfevents`."""

MAPS = tuple(field.name for field in SCHEMA if pa.types.is_map(field.type))


def rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The records as mappings; columns by source are mappings, too."""
    for batch in table.to_batches(max_chunksize=ROWS):
        for row in batch.to_pylist():
            yield row | {name: dict(row[name]) for name in MAPS}


def records(table: pa.Table) -> Iterator[StepRecord]:
    """The records as their class."""
    return (StepRecord(**row) for row in rows(table))


def write_parquet(table: pa.Table, out: BinaryIO) -> None:
    """The record's own schema, in one file."""
    pq.write_table(table, out, compression="zstd")


def write_jsonl(table: pa.Table, out: BinaryIO) -> None:
    """One JSON object a line. Numbers that JSON lacks are strings (`"nan"`, `"inf"`), what is not known is null."""
    for row in rows(table):
        out.write(json.dumps(_json(row), separators=(",", ":"), ensure_ascii=False).encode() + b"\n")


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(each) for name, each in value.items()}
    if isinstance(value, datetime):
        return _time(value)
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_csv(table: pa.Table, out: BinaryIO) -> None:
    """A header and one line for each record; `source_loss.docs` is a column. What is not known is empty."""
    columns = {name: list(map_columns(table, name)) for name in MAPS}
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    writer = csv.writer(text)
    plain = [name for name in SCHEMA.names if name not in MAPS]
    writer.writerow([*plain, *(f"{name}.{key}" for name in MAPS for key in columns[name])])
    for row in rows(table):
        row["time"] = _time(row["time"])
        writer.writerow(
            [*(row[name] for name in plain), *(row[name].get(key) for name in MAPS for key in columns[name])]
        )
    text.detach()


def _time(value: datetime) -> str:
    return value.isoformat().replace("+00:00", "Z")


def write_tensorboard(table: pa.Table, folder: Path) -> int:
    """An event file that TensorBoard shows, by step and with the true times; gives the number of records.

    It is there whole or not at all and replaces the one of an earlier call, whose points would else be shown twice.

    Raises:
        InputError: the folder holds event files of another program, with which TensorBoard would mix these points.
        StoreUnusableError: the disk is full, or the folder may not be written.
        StorageError: the file system refuses otherwise.
        ModuleNotFoundError: the package tensorboardX is not installed.
    """
    # Not its SummaryWriter: that writes in a thread, whose errors nobody can catch and whose end it waits for.
    from tensorboardX.record_writer import RecordWriter

    final = folder.absolute() / EVENT_FILE
    try:
        others = sorted(path.name for path in folder.glob("*tfevents*") if path.name != EVENT_FILE)
        if others:
            raise InputError(
                f"{folder} holds '{others[0]}', which TensorBoard would show as points of the same run;"
                " give an empty folder, or remove that file"
            )
        with local.temporary_file(final.parent) as (fd, temporary):
            writer = RecordWriter(str(temporary))
            try:
                for event in _events(table):
                    writer.write(event)
            finally:
                writer.close()
            local.replace_durably(fd, temporary, final)
    except OSError as error:
        raise local.explain(error, final, "write") from error
    return int(table.num_rows)


def _events(table: pa.Table) -> Iterator[bytes]:
    """TensorBoard's messages: the version of their form, then one for each record."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    yield Event(file_version="brain.Event:2").SerializeToString()
    for record in records(table):
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in _scalars(record)]
        event = Event(wall_time=record.time.timestamp(), step=record.step, summary=Summary(value=values))
        yield event.SerializeToString()


def _scalars(record: StepRecord) -> Iterator[tuple[str, float]]:
    """A record's numbers by the names that TensorBoard groups them by."""
    for name in SCHEMA.names:
        value = getattr(record, name)
        if name in MAPS:
            yield from ((f"{name}/{key}", float(each)) for key, each in value.items())
        elif name not in ("step", "time") and value is not None:
            yield f"train/{name}", float(value)
