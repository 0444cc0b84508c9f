"""From an address to its store."""

import subprocess
import sys
from pathlib import Path

import pytest

from llm360.storage import StorageOptions, StoreUnusableError, normalize_uri, open_storage
from llm360.storage.file import FileStorage
from llm360.storage.http import HttpStorage
from llm360.storage.open import without_credentials
from llm360.storage.s3 import S3Storage


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("/data/run", "file:///data/run"),
        ("/data/run/", "file:///data/run"),
        ("/data/./x/../run", "file:///data/run"),
        ("/with space/ä", "file:///with%20space/%C3%A4"),
        ("file:///data/run/", "file:///data/run"),
        ("FILE:///data", "file:///data"),
        ("file:///with%20space", "file:///with%20space"),
        ("file:///", "file:///"),
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/runs/one/", "s3://bucket/runs/one"),
        ("https://host:8080/a/b/", "https://host:8080/a/b"),
    ],
)
def test_normalize_uri(uri, expected):
    assert normalize_uri(uri) == expected
    assert normalize_uri(expected) == expected


def test_paths_are_relative_to_here_and_home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert normalize_uri("runs/x") == f"file://{tmp_path}/runs/x"
    assert normalize_uri("runs/a:b") == f"file://{tmp_path}/runs/a%3Ab"
    assert normalize_uri("a:b") == f"file://{tmp_path}/a%3Ab"
    assert normalize_uri("./s3:/b") == f"file://{tmp_path}/s3%3A/b"
    assert normalize_uri("~/runs") == "file:///home/somebody/runs"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("", "it is empty"),
        ("gs://bucket/run", "'gs' is no scheme known here"),
        ("file://host/run", "it names the host 'host'"),
        ("s3://", "it names no bucket"),
        ("s3:///run", "it names no bucket"),
        ("http://", "it names no host"),
        ("http://?x", "it names no host"),
        ("http://me:secret@/x", "it names no host"),
        ("s3:/bucket/x", "did you mean 's3://bucket/x'?"),
        ("S3:bucket/x", "did you mean 's3://bucket/x'?"),
        ("file:runs/a", "did you mean 'runs/a'?"),
        ("file:/runs/a", "did you mean 'file:///runs/a'?"),
        ("http:/me:secret@host/x", "did you mean 'http://host/x'?"),
        ("gs:/bucket/x", "'gs' is no scheme known here"),
        ("s3://me:secret@bucket/x", "'s3://bucket/x' is no address of a store: it carries credentials"),
        ("https://me:secret@host/x?X-Amz-Signature=secret", "'https://host/x?' .* belongs to one page"),
        ("https://host/x#y", "write %23 where"),
        ("http://me:secret/secret@host/x", "'http://…' .* is none; in a name or password, write '/' as %2F"),
        ("http://[::1/x", "its host or its port"),
    ],
)
def test_addresses_of_no_store(uri, problem):
    for call in (normalize_uri, open_storage):
        with pytest.raises(StoreUnusableError, match=problem.replace("?", r"\?")) as error:
            call(uri)
        assert "secret" not in error.value.message
        assert error.value.exit_code == 2
        assert error.value.reason == "InvalidStorageUri"
        assert "write s3://bucket/prefix, file:///folder" in error.value.message


@pytest.mark.parametrize(
    ("uri", "kind"),
    [("/x/y", FileStorage), ("file:///x/y", FileStorage), ("s3://bucket/x/y", S3Storage), ("http://h/x", HttpStorage)],
)
def test_open_storage(uri, kind):
    options = StorageOptions(endpoint="http://127.0.0.1:1", parallel=2)
    storage = open_storage(uri, options)
    assert type(storage) is kind
    assert storage.uri == normalize_uri(uri)
    assert storage.options is options
    assert storage.at("deeper").uri == storage.uri + "/deeper"


def test_folder_of_the_root(tmp_path):
    assert open_storage("/").uri == "file:///"
    assert open_storage(f"file://{tmp_path}/a%20b").root == Path(tmp_path, "a b")


@pytest.mark.parametrize("uri", ["s3://bucket/../other", "s3://bucket/a//b"])
def test_prefixes_are_keys(uri):
    with pytest.raises(StoreUnusableError, match="cannot be stored"):
        open_storage(uri)


def test_a_folder_needs_neither_boto3_nor_urllib3():
    code = "import sys; from llm360.storage import open_storage; open_storage('x').exists('y'); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"boto3", "botocore", "urllib3"} & set(modules)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://me:secret@host:80/a@b", "http://host:80/a@b"),
        ("HTTPS://token@host", "HTTPS://host"),
        ("http://me:s@cret@host/x", "http://host/x"),
        ("https://host/a:b@c", "https://host/a:b@c"),
        ("file:///a:b@c", "file:///a:b@c"),
        ("data/a:b@c", "data/a:b@c"),
    ],
)
def test_without_credentials(uri, shown):
    assert without_credentials(uri) == shown
