"""Anyone trains a checkpoint's last steps anew and has its bits; a release that only says so is found out."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm360.canonical import canonical_json, sha256_digest
from llm360.release.layout import config_key, ledger_key, manifest_key

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LLM360 = [sys.executable, "-m", "llm360.cli.main"]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A reader who has seen enough of a file closes the connection."""


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*LLM360, *map(str, arguments)], capture_output=True, text=True, timeout=300)


def forge(release: Path, to: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A copy of a release whose configuration says something else, with every digest and link made to fit."""
    subprocess.run(["cp", "-r", release, to], check=True)
    new: dict[str, str] = {}

    def renamed(data: bytes) -> bytes:
        text = data.decode()
        for old, other in new.items():
            text = text.replace(old, other)
        return text.encode()

    (path,) = (to / "config").iterdir()
    config = json.loads(path.read_bytes())
    change(config)
    data = canonical_json(config)
    new[f"sha256:{path.stem}"] = sha256_digest(data)
    path.unlink()
    (to / config_key(sha256_digest(data))).write_bytes(data)
    for seq in range(len(list((to / "ledger").glob("[0-9]*.json")))):
        path = to / ledger_key(seq)
        before = path.read_bytes()
        entry = json.loads(before)
        if entry["kind"] == "checkpoint":
            manifest = to / manifest_key(entry["prefix"])
            old = manifest.read_bytes()
            manifest.write_bytes(renamed(old))
            new[sha256_digest(old)] = sha256_digest(renamed(old))
        path.write_bytes(renamed(before))
        new[sha256_digest(before)] = sha256_digest(path.read_bytes())


def test_over_http_the_same_bits_come_out_and_nothing_is_written(undisturbed: Any) -> None:
    handler = partial(QuietHandler, directory=str(undisturbed.store))
    before = sorted((path, path.stat().st_mtime_ns) for path in undisturbed.store.rglob("*"))
    with QuietServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        result = command("replay", uri, "--checkpoint", "ckpt_001", "--log-format", "json", "-o", "json")
        server.shutdown()
    assert result.returncode == 0, result.stdout + result.stderr
    facts = json.loads(result.stdout)
    assert (facts["same"], facts["differentSteps"], facts["environment"]) == (True, [], [])
    end = next(known for known in undisturbed.history.branch if "ckpt_001" in known.body.labels)
    assert (facts["checkpoint"], facts["lastStep"], facts["steps"]) == (end.name, 40, 20)
    assert [checkpoint["step"] for checkpoint in facts["checkpoints"]] == [24, 32, 40]
    assert facts["checkpoints"][-1]["found"]["state"] == end.body.digests.state
    assert "20 steps from ckpt_000 to ckpt_001, as attempt 1 made them, on 2 workers" in result.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in undisturbed.store.rglob("*")) == before


def test_a_release_that_says_another_learning_rate_verifies_but_does_not_replay(
    undisturbed: Any, tmp_path: Path
) -> None:
    def change(config: dict[str, Any]) -> None:
        config["training"]["schedule"]["warmupSteps"] += 1

    forge(undisturbed.store, tmp_path / "forged", change)
    verified = command("verify", tmp_path / "forged", "--bytes", "all", "--data")
    assert verified.returncode == 0, verified.stdout
    result = command("replay", tmp_path / "forged", "--checkpoint", "ckpt_000", "--from", "start", "--steps", "4")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "losses  2 of 4 steps have the recorded bits" in result.stdout
    assert "the first other one is step 3;" in result.stdout
    assert result.stdout.endswith(
        "result  NOT the same bits from the untrained model to step 4; nothing known of the two places differs\n"
    )
