"""The real Prometheus and promtool, in processes of this machine, filled by replays."""

from __future__ import annotations

import csv
import io
import json
import socket
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import release
from testbed import build
from testbed.fixtures import FIRST_SECONDS
from testbed.process import wait_until

from llm360.release.metrics import SCHEMA, StepRecord, write_segment
from llm360.storage import open_storage

ROOT = Path(__file__).parents[3]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the first test time to wait for what is built once."""
    for item in items:
        if "programs" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(FIRST_SECONDS))


@dataclass
class Prometheus:
    """A server that holds what was put into its blocks, and scrapes nothing."""

    address: str

    def ask(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer of its HTTP API; fails with what it said where it refused."""
        form = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.address}/api/v1/{path}?{form}", timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def samples(self, selector: str, time: float, seconds: int = 86400) -> list[tuple[float, float]]:
        """The raw samples of the only series that a selector finds, in the time before."""
        (series,) = self.ask("query", query=f"{selector}[{seconds}s]", time=time)["result"]
        return [(float(when), float(value)) for when, value in series["values"]]


@pytest.fixture(scope="session")
def programs(request: pytest.FixtureRequest) -> Path:
    """Folder of Prometheus' programs, built with all others where they are missing; they need no cluster."""
    if not build.component("prometheus").is_built():
        request.getfixturevalue("machine")
    return build.component("prometheus").output


@pytest.fixture(scope="session")
def promtool(programs: Path) -> Callable[..., str]:
    """Runs promtool; gives what it printed, fails with it where it failed."""
    program = programs / "promtool"

    def run(*arguments: str | Path, said: bytes | None = None) -> str:
        result = subprocess.run([program, *arguments], input=said, capture_output=True, timeout=120)
        printed = (result.stdout + result.stderr).decode()
        assert result.returncode == 0, printed
        return printed

    return run


@pytest.fixture(scope="session")
def serve(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Starts a Prometheus on a folder of blocks, for a `with` block."""
    program = programs / "prometheus"

    @contextmanager
    def start(blocks: Path) -> Iterator[Prometheus]:
        folder = tmp_path_factory.mktemp("prometheus")
        (folder / "prometheus.yml").write_text("{}\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        command = [
            program,
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={blocks}",
            "--storage.tsdb.retention.time=100y",  # what is replayed may be older than what Prometheus keeps
            f"--web.listen-address={address}",
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:

            def is_ready() -> bool:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return urllib.request.urlopen(f"http://{address}/-/ready", timeout=5).status == 200
                except OSError:
                    return False

            wait_until(is_ready, "Prometheus", 60)
            yield Prometheus(f"http://{address}")
        finally:
            process.terminate()
            process.wait(30)

    return start


@pytest.fixture(scope="session")
def eventful_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of a release with restarts, a fallback, a rewind, a skip and two sources, called amber-tiny."""
    uri = str(tmp_path_factory.mktemp("made") / "amber-tiny")
    release.eventful_release(open_storage(uri))
    return uri


@pytest.fixture(scope="session")
def replay_into(eventful_uri: str, promtool: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Puts the release's record into a folder of blocks, as docs/how-to/monitoring.md says."""

    def replay(blocks: Path) -> None:
        text = tmp_path_factory.mktemp("replay") / "run.om"
        command = [sys.executable, "-m", "llm360.cli.main", "metrics", eventful_uri, "--format", "openmetrics"]
        with text.open("wb") as out:
            subprocess.run(command, stdout=out, check=True, timeout=120)
        options = ("--max-block-duration=744h", "--label=namespace=ml")
        promtool("tsdb", "create-blocks-from", "openmetrics", *options, text, blocks)

    return replay


@pytest.fixture(scope="session")
def replayed(replay_into: Any, serve: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that holds the release's record and nothing else."""
    blocks = tmp_path_factory.mktemp("blocks") / "data"
    replay_into(blocks)
    with serve(blocks) as prometheus:
        yield prometheus


@pytest.fixture(scope="session")
def real_records() -> pa.Table:
    """The record of a real `llm360 run amber-tiny` on two CPU workers, as `llm360 metrics --format csv` gave it."""
    made = []
    for line in csv.DictReader(io.StringIO((Path(__file__).parent / "amber-tiny.csv").read_text())):
        fields: dict[str, Any] = {name: {} for name in ("source_loss", "source_tokens")}
        for name, text in line.items():
            column, _, source = name.partition(".")
            if source and text:  # a step may have no rows of a source
                fields[column][source] = float(text) if column == "source_loss" else int(text)
            elif not source and pa.types.is_integer(SCHEMA.field(name).type):
                fields[name] = int(text)
            elif not source and pa.types.is_floating(SCHEMA.field(name).type):
                fields[name] = float(text) if text else None
        time, skipped = datetime.fromisoformat(line["time"]), line["skipped"] == "True"
        made.append(StepRecord(**fields, time=time, skipped=skipped))
    return pq.read_table(pa.BufferReader(write_segment(made))).cast(SCHEMA)
