"""The command that draws dashboards: what it asks a server, and what it says where something is wrong."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from llm360.errors import StorageError
from llm360.monitoring.draw import main, seconds_of

DASHBOARD = Path(__file__).parents[4] / "helm/llm360/dashboards/llm360-operator.json"
TIMES = ["--from", "2026-01-02T03:00:00Z", "--to", "2026-01-02T04:00:00Z"]


@pytest.fixture
def server():
    """Answers as a Prometheus does, with what `answer` holds; the address and what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append((self.path, body))
            status, text = answer
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    asked, answer = [], [200, json.dumps({"data": {"result": []}}).encode()]
    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}", answer, asked
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_picture_is_written_for_each_dashboard(server, tmp_path, capsys):
    address, answer, asked = server
    answer[1] = json.dumps({"data": {"result": [{"metric": {}, "values": [[1767322800, "1.5"]]}]}}).encode()
    assert main([address, str(DASHBOARD), *TIMES, "--out", str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "new/llm360-operator.svg")]
    assert "Time of a round" in (tmp_path / "new/llm360-operator.svg").read_text()
    path, form = asked[0]
    assert path == "/api/v1/query_range"
    fields = parse_qs(form)
    assert (fields["start"], fields["end"], fields["step"]) == (["1767322800.000"], ["1767326400.000"], ["18"])


def test_a_png_is_written_where_it_is_wanted(server, tmp_path, capsys):
    assert main([server[0], str(DASHBOARD), *TIMES, "--format", "png", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "llm360-operator.png")]
    assert (tmp_path / "llm360-operator.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written_is_named(server, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([server[0], str(DASHBOARD), *TIMES, "--out", str(tmp_path / "file/new")]) == StorageError.exit_code
    said = capsys.readouterr().err
    assert re.search(r"the pictures cannot be written to .*file/new: .*; give another --out\n$", said)
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([str(DASHBOARD), "--from", "yesterday"], 2, "'yesterday' is not a time; write it as"),
        ([str(DASHBOARD), *TIMES[2:], "--from", "2026-01-03"], 2, "is not after"),
        ([str(DASHBOARD), "--var", "run"], 2, "write NAME=VALUE"),
        (["/nowhere.json"], 2, "/nowhere.json is not the JSON of a Grafana dashboard"),
    ],
)
def test_bad_input_is_said_in_a_sentence_and_writes_nothing(server, tmp_path, capsys, arguments, code, sentence):
    assert main([server[0], *arguments, "--out", str(tmp_path / "new")]) == code
    said = capsys.readouterr()
    assert sentence in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("status", "text", "code", "sentence"),
    [
        (400, b'{"error": "unclosed left parenthesis"}', 2, "unclosed left parenthesis"),
        (200, b"<html>", 1, "does not answer as a Prometheus does"),
        (503, b"{}", 1, "does not answer as a Prometheus does"),
        (200, b'{"data": []}', 1, "does not answer as a Prometheus does"),
    ],
)
def test_a_server_that_is_none_or_refuses_is_said(server, tmp_path, capsys, status, text, code, sentence):
    address, answer, _ = server
    answer[:] = status, text
    assert main([address, str(DASHBOARD), *TIMES, "--out", str(tmp_path)]) == code
    assert sentence in capsys.readouterr().err


def test_nobody_at_the_address_is_said(tmp_path, capsys):
    assert main(["http://127.0.0.1:1", str(DASHBOARD), *TIMES, "--out", str(tmp_path)]) == 1
    assert "http://127.0.0.1:1/api/v1/query_range does not answer" in capsys.readouterr().err


def test_a_time_without_a_zone_is_utc():
    assert seconds_of("2026-01-02T03:00:00") == seconds_of("2026-01-02T03:00:00Z") == 1767322800
    assert seconds_of("2026-01-02T05:00:00+02:00") == 1767322800
