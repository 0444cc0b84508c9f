"""Each form holds each record's every number."""

import csv
import io
import json
import math
import struct
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm360.errors import InputError, StorageError
from llm360.monitoring.tables import records, write_csv, write_jsonl, write_parquet, write_tensorboard
from llm360.release.metrics import SCHEMA


def written(write, table):
    out = io.BytesIO()
    write(table, out)
    return out.getvalue()


def test_parquet_is_the_record_itself(eventful):
    table = eventful[1]()
    assert pq.read_table(pa.BufferReader(written(write_parquet, table))).equals(table)


def test_jsonl_has_one_object_a_step(eventful):
    table = eventful[1](all_attempts=True)
    lines = [json.loads(line, parse_constant=int) for line in written(write_jsonl, table).splitlines()]
    assert len(lines) == table.num_rows
    for line, record in zip(lines, records(table), strict=True):
        assert line["source_tokens"] == record.source_tokens
        assert line["loss"] == (record.loss if math.isfinite(record.loss) else "nan")
        assert (line["step"], line["mfu"], line["skipped"]) == (record.step, None, record.skipped)


def test_csv_has_a_column_for_each_source(eventful):
    table = eventful[1]()
    lines = list(csv.DictReader(io.StringIO(written(write_csv, table).decode())))
    assert [int(line["step"]) for line in lines] == list(range(1, 401))
    for line, record in zip(lines, records(table), strict=True):
        assert float(line["source_loss.docs"]) == record.source_loss["docs"]
        assert (float(line["loss"]), line["mfu"]) == (record.loss, "")
        assert line["time"] == record.time.isoformat().replace("+00:00", "Z")


def test_without_records_there_is_a_header_and_no_line():
    table = SCHEMA.empty_table()
    assert written(write_csv, table).decode().startswith("step,attempt,stage,time,tokens,loss")
    assert written(write_jsonl, table) == b""


def events_in(folder):
    from tensorboardX.proto.event_pb2 import Event

    (file,) = folder.iterdir()
    assert "tfevents" in file.name, "TensorBoard passes over other names"
    data, events = file.read_bytes(), []
    while data:  # TFRecord: length, its checksum, bytes, their checksum
        (length,) = struct.unpack("<Q", data[:8])
        events.append(Event.FromString(data[12 : 12 + length]))
        data = data[16 + length :]
    return events


@pytest.mark.filterwarnings("ignore::ImportWarning")  # of what tensorboardX may upload with
def test_tensorboard_gets_each_step_s_numbers_with_their_time(eventful, tmp_path):
    table = eventful[1](first_step=390)
    assert write_tensorboard(table, tmp_path / "logs") == 11
    events = events_in(tmp_path / "logs")
    assert events[0].file_version == "brain.Event:2"
    losses = {e.step: (e.wall_time, v.simple_value) for e in events for v in e.summary.value if v.tag == "train/loss"}
    for record in records(table):
        time, loss = losses[record.step]
        assert abs(time - record.time.timestamp()) < 1e-3
        assert math.isclose(loss, record.loss, rel_tol=1e-6)
    assert any(v.tag == "source_loss/docs" for e in events for v in e.summary.value)


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_tensorboard_written_again_shows_each_point_once(eventful, tmp_path):
    for first in (395, 399):
        write_tensorboard(eventful[1](first_step=first), tmp_path)
    assert [event.step for event in events_in(tmp_path)[1:]] == [399, 400]


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_tensorboard_s_folder_of_another_program_is_refused(eventful, tmp_path):
    (tmp_path / "events.out.tfevents.1.host").write_bytes(b"other")
    with pytest.raises(InputError, match=r"holds 'events\.out\.tfevents\.1\.host', .* give an empty folder"):
        write_tensorboard(eventful[1](first_step=399), tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"other"]


@pytest.mark.filterwarnings("ignore::ImportWarning")
def test_full_disk_leaves_no_half_of_tensorboard_s_file(eventful, tmp_path, monkeypatch):
    full = partial(Path("/dev/full").open, "wb")
    monkeypatch.setattr("tensorboardX.record_writer.open_file", lambda _: full())
    with pytest.raises(StorageError, match=r"cannot write .*/events\..*: the disk of .* is full"):
        write_tensorboard(eventful[1](), tmp_path / "logs")
    assert list((tmp_path / "logs").iterdir()) == []


def test_tensorboard_s_folder_that_cannot_be_written_is_named(eventful, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*: .*/file is a file, not a folder"):
        write_tensorboard(eventful[1](first_step=399), tmp_path / "file" / "logs")
