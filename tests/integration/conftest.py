"""A real S3 server for whoever asks: SeaweedFS on free ports, in a folder of its own, ended by its process id."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from llm360.storage import StorageOptions

START_SECONDS = 60.0
ACCESS_KEY = "llm360-tests"


@dataclass
class S3Server:
    """A server; `environment` is what a client process needs to use it."""

    endpoint: str
    access_key: str
    secret_key: str
    command: list[str]
    log: Path

    def start(self) -> None:
        """Start it and wait until it takes a write."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(self.command, cwd=self.log.parent, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(self)
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait(timeout=20)

    @property
    def port(self) -> int:
        return int(self.endpoint.rpartition(":")[2])

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self) -> Any:
        """A plain boto3 client, to look at the server from outside of llm360."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, connect_timeout=2, read_timeout=20),
        )

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The server accepts connections and answers nothing, as one whose machine hangs."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """The server is gone, as one that is started again; what it holds stays."""
        self.process.terminate()
        self.process.wait(timeout=60)
        try:
            yield
        finally:
            self.start()


@dataclass(frozen=True)
class S3Bucket:
    """A fresh bucket: its address, how to reach it, and the variables a child process needs."""

    uri: str
    options: StorageOptions
    environment: dict[str, str]

    @property
    def name(self) -> str:
        return self.uri.removeprefix("s3://")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """One SeaweedFS for the whole session."""
    folder = tmp_path_factory.mktemp("s3")
    server = start_server(folder)
    try:
        yield server
    finally:
        server.end()


@pytest.fixture
def new_bucket(s3_server: S3Server) -> Iterator[Callable[[], S3Bucket]]:
    """Makes buckets; their bytes go with the test."""
    client = s3_server.client()
    made: list[str] = []

    def make() -> S3Bucket:
        name = f"test-{secrets.token_hex(6)}"
        client.create_bucket(Bucket=name)
        made.append(name)
        options = StorageOptions(endpoint=s3_server.endpoint, region="us-east-1")
        return S3Bucket(f"s3://{name}", options, s3_server.environment)

    yield make
    for name in made:
        client.delete_bucket(Bucket=name)  # this server removes the objects with it
    client.close()


@pytest.fixture
def s3_bucket(s3_server: S3Server, new_bucket: Callable[[], S3Bucket], monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """A fresh bucket, with `AWS_*` set in this process and so in its children."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    return new_bucket()


def start_server(folder: Path) -> S3Server:
    """Start SeaweedFS in the folder and wait until it takes a bucket."""
    secret_key = secrets.token_hex(16)
    config = folder / "s3.json"
    identity = {
        "name": ACCESS_KEY,
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config.write_text(json.dumps({"identities": [identity]}))
    ports = free_ports(8)
    weed = str(Path(sys.executable).parent / "weed")
    server = S3Server(
        f"http://127.0.0.1:{ports[0]}",
        ACCESS_KEY,
        secret_key,
        [weed, "server", *server_arguments(folder, config, ports)],
        folder / "weed.log",
    )
    server.start()
    return server


def server_arguments(folder: Path, config: Path, ports: list[int]) -> list[str]:
    """Everything on loopback and on ports of its own, nothing outside the folder, no telemetry."""
    names = ("s3.port", "s3.port.grpc", "filer.port", "filer.port.grpc")
    names += ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    data = folder / "data"
    data.mkdir()
    return [
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=1024",
        "-volume.max=2000",
        "-volume.minFreeSpacePercent=0",
        "-s3",
        f"-s3.config={config}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


def wait_until_ready(server: S3Server) -> None:
    """Until a write succeeds: it goes through every part of the server, so then all of them are up."""
    client = server.client()
    deadline = time.monotonic() + START_SECONDS
    while True:
        if server.process.poll() is not None:
            raise RuntimeError(f"the S3 server ended with {server.process.returncode}:\n{server.log.read_text()}")
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="readiness")
            client.put_object(Bucket="readiness", Key="key", Body=b"ready")
        except (BotoCoreError, ClientError) as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no S3 server after {START_SECONDS:g} s:\n{server.log.read_text()}") from error
            time.sleep(0.1)
        else:
            client.close()
            return


@pytest.fixture(scope="session", name="free_ports")
def free_ports_fixture() -> Callable[[int], list[int]]:
    """Finds ports that nobody listens on."""
    return free_ports


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on; held open together, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
