"""What `llm360 verify` exits with: a broken link, a store that says nothing, and input that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from synthetic.release import eventful_release

from llm360.cli import main, verify
from llm360.errors import StorageUnavailableError
from llm360.release.create import open_release
from llm360.storage import open_storage


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "release"
    eventful_release(open_storage(str(folder)), num_chunks=5, chunk_steps=5)
    return folder


def test_a_broken_link_is_1_and_named_in_the_output(release, capsys):
    path = release / "ledger/00000001.json"
    path.write_bytes(path.read_bytes().replace(b'"world_size":2', b'"world_size":3'))
    assert main.run(("verify", str(release), "-o", "json")) == 1
    printed = capsys.readouterr()
    chain, *_ = json.loads(printed.out)["checks"]
    assert (printed.err, chain["status"], chain["faults"][0]["key"]) == ("", "failed", "ledger/00000002.json")


def test_a_store_that_gives_no_answer_is_1_with_an_error_and_no_output(release, capsys, monkeypatch):
    storage = open_storage(str(release))

    def get(*_: object) -> bytes:
        raise StorageUnavailableError("no answer")

    monkeypatch.setattr(type(storage), "get", get)
    monkeypatch.setattr(verify, "open_storage", lambda _: storage)
    assert main.run(("verify", str(release), "-o", "json")) == 1
    assert capsys.readouterr() == ("", "llm360: error: no answer\n")


def test_what_cannot_be_used_is_2(release, capsys):
    for words in ((str(release / "none"),), (str(release), "--workers", "0"), (str(release), "--head", "sha256:1")):
        assert main.run(("verify", *words)) == 2
        printed = capsys.readouterr()
        assert (printed.out, printed.err.count("\n")) == ("", 1)
    with pytest.raises(SystemExit) as end:
        main.run(("verify", str(release), "--bytes", "some"))
    assert end.value.code == 2


def test_the_help_says_all_of_it(capsys):
    with pytest.raises(SystemExit):
        main.run(("verify", "--help"))
    codes = " ".join(capsys.readouterr().out.partition("exit codes:")[2].split())
    assert "1 a link is broken (named in the output); or, with an error and no output, the store gave no" in codes
    assert "2 there is no release, it may not be read, or an option is wrong" in codes


def test_every_command_names_the_head_alike(release, capsys):
    found = set()
    for words in (("verify",), ("status",), ("ls",)):
        main.run((*words, str(release), "-o", "json"))
        found.add(json.loads(capsys.readouterr().out)["headDigest"])
    main.run(("compare", str(release), str(release), "-o", "json"))
    found |= {run["headDigest"] for run in json.loads(capsys.readouterr().out)["runs"]}
    assert found == {open_release(open_storage(str(release))).history().head.name}
