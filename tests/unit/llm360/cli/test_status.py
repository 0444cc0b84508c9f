from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from llm360.canonical import canonical_json, sha256_digest
from llm360.cli.main import run
from llm360.release.entries import Attempt, Complete, Genesis
from llm360.release.entry import Entry
from llm360.release.layout import config_key
from llm360.storage import Storage, open_storage

STEPS_DIGEST = "sha256:" + "1" * 64


def put_release(storage: Storage, *, complete: bool = False) -> list[Entry]:
    """A release of a few entries, written now."""
    config = canonical_json({"preset": "amber-tiny", "training": {"steps": 40}})
    digest = sha256_digest(config)
    storage.put(config_key(digest), config)
    bodies = [
        Genesis(digests={"config": digest}),
        Attempt(attempt=1, step=0, tokens=0, world_size=1, device="cpu", operations={}),
    ]
    if complete:
        digests = {"config": digest, "model": STEPS_DIGEST, "state": STEPS_DIGEST}
        bodies.append(Complete(attempt=1, step=40, tokens=40, checkpoint=STEPS_DIGEST, digests=digests))
    entries: list[Entry] = []
    for seq, body in enumerate(bodies):
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        entries.append(Entry(seq, entries[-1].name if entries else None, f"{seq:032x}", now, body))
        storage.create(entries[-1].key, entries[-1].data)
    return entries


@pytest.fixture
def storage(tmp_path) -> Storage:
    return open_storage(str(tmp_path / "amber-tiny"))


@pytest.fixture
def folder(storage) -> str:
    return storage.uri.removeprefix("file://")


def test_missing_release_is_one_sentence_and_exit_2(folder, capsys):
    assert run(["status", folder]) == 2

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert "there is no release at" in captured.err


def test_status_in_text(storage, folder, capsys):
    entries = put_release(storage)

    assert run(["status", folder]) == 0

    out = capsys.readouterr().out
    assert "run          amber-tiny (preset amber-tiny)\n" in out
    assert "phase        in progress\n" in out
    assert "step         0 of 40 (0%)\n" in out
    assert entries[-1].name in out


def test_status_in_json(storage, folder, capsys):
    entries = put_release(storage)

    assert run(["status", folder, "-o", "json"]) == 0

    value = json.loads(capsys.readouterr().out)
    assert (value["phase"], value["totalSteps"], value["headDigest"]) == ("in progress", 40, entries[-1].name)


def test_watching_ends_with_the_run_and_prints_changes_only(storage, folder, capsys, monkeypatch):
    entries = put_release(storage)
    waits = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            digests = {"config": entries[0].body.digests.config, "model": STEPS_DIGEST, "state": STEPS_DIGEST}
            body = Complete(attempt=1, step=40, tokens=40, checkpoint=STEPS_DIGEST, digests=digests)
            entry = Entry(2, entries[-1].name, "f" * 32, entries[-1].time, body)
            storage.create(entry.key, entry.data)

    monkeypatch.setattr("llm360.cli.status.time.sleep", wait)

    assert run(["status", folder, "-w", "-o", "json", "--interval", "2"]) == 0

    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["phase"] for line in lines] == ["in progress", "complete"]
    assert waits == [2.0, 2.0, 2.0]


def test_watching_a_complete_run_ends_at_once(storage, folder, capsys):
    put_release(storage, complete=True)

    assert run(["status", folder, "--watch"]) == 0
    assert capsys.readouterr().out.count("phase ") == 1


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "1e9"])
def test_interval_out_of_bounds_is_refused(folder, capsys, seconds):
    assert run(["status", folder, "-w", f"--interval={seconds}"]) == 2
    assert "allowed are 0.1 to 3600" in capsys.readouterr().err
