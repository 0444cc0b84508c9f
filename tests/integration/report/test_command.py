"""`llm360 report` and `llm360 status` on whole releases: in a folder, behind a web server, in a bucket."""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm360.cli.main import run
from llm360.storage import Storage, open_storage


@pytest.fixture
def release(tmp_path, eventful_release) -> Storage:
    storage = open_storage(str(tmp_path / "amber-tiny"))
    eventful_release(storage)
    return storage


@pytest.fixture
def web(release) -> Iterator[str]:
    """The release behind a plain web server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=folder_of(release))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def folder_of(storage: Storage) -> str:
    return storage.uri.removeprefix("file://")


def test_report_prints_the_summary_and_where_it_lies(release, capsys):
    assert run(["report", folder_of(release)]) == 0

    out = capsys.readouterr().out
    assert "run          amber-tiny, complete\n" in out
    assert "verified     yes: 32 ledger entries, the files of the latest checkpoint" in out
    assert f"report       {folder_of(release)}/report/index.html\n" in out
    assert "Verified: every link that was checked holds." in release.get("report/index.html").decode()


def test_report_of_a_broken_release_is_written_and_exits_1(release, capsys):
    key = max(info.key for info in release.list("checkpoints/") if info.key.endswith("model/w.safetensors"))
    data = bytearray(release.get(key))
    data[-1] ^= 1
    release.put(key, bytes(data))

    assert run(["report", folder_of(release), "-o", "json"]) == 1

    facts = json.loads(capsys.readouterr().out)
    assert (facts["verified"], facts["phase"], facts["step"]) == (False, "complete", 400)
    assert f"Broken at check 8, checkpoint bytes: {key}" in Path(facts["report"]).read_text()


def test_report_of_a_broken_chain_is_refused_by_the_link(release, capsys):
    release.put("ledger/00000004.json", release.get("ledger/00000004.json").replace(b'"step":', b'"step": '))

    assert run(["report", folder_of(release)]) == 1
    assert "ledger/00000004.json" in capsys.readouterr().err
    assert not release.exists("report/index.html")


def test_report_of_a_release_behind_a_web_server(web, tmp_path, capsys):
    out = tmp_path / "run.html"

    assert run(["report", web, "--out", str(out), "--bytes", "all"]) == 0
    assert "every file of every checkpoint" in out.read_text()


def test_report_into_a_web_server_is_refused_in_one_sentence(web, capsys):
    assert run(["report", web]) == 2
    assert "can only be read; say with --out FILE" in capsys.readouterr().err


def test_status_of_a_release_behind_a_web_server(web, capsys):
    assert run(["status", web, "-o", "json"]) == 0

    facts = json.loads(capsys.readouterr().out)
    assert (facts["phase"], facts["step"], facts["attempts"], facts["lastCheckpoint"]) == (
        "complete",
        400,
        3,
        "ckpt_007",
    )


@pytest.mark.slow
def test_report_goes_into_the_bucket(s3_bucket, eventful_release, capsys):
    storage = open_storage(f"{s3_bucket.uri}/amber-tiny", s3_bucket.options)
    eventful_release(storage)

    assert run(["report", f"{s3_bucket.uri}/amber-tiny"]) == 0

    assert f"report       {s3_bucket.uri}/amber-tiny/report/index.html\n" in capsys.readouterr().out
    assert storage.get("report/index.html").startswith(b"<!doctype html>")
