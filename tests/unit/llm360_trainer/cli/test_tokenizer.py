import errno
import json
import os

import pytest
from tokenizers import Tokenizer

from llm360.cli.main import run


@pytest.fixture
def command(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"line {number} of many words\n" for number in range(200)))
    return [
        *("tokenizer", "train", "--source", f"x={tmp_path}/text.txt", "--vocab-size", "290"),
        *("--out", f"{tmp_path}/new/tokenizer.json"),
    ]


def test_train_writes_a_tokenizer_and_again_the_same(command, tmp_path, capsys):
    assert run([*command, "-o", "json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert run([*command, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert Tokenizer.from_file(first["path"]).get_vocab_size() == 290
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]


def test_other_tokenizer_is_not_overwritten(command, tmp_path, capsys):
    run(command)
    assert run([*command[:-3], "280", *command[-2:]]) == 2
    assert "holds something else" in capsys.readouterr().err


@pytest.mark.parametrize("size", ["5", "100000"])
def test_impossible_vocabulary_leaves_no_file(command, tmp_path, size):
    assert run([*command[:-3], size, *command[-2:]]) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("out", ["file/tokenizer.json", "."])
def test_a_place_that_cannot_be_is_told_before_the_training(command, tmp_path, monkeypatch, capsys, out):
    (tmp_path / "file").touch()
    monkeypatch.setattr("llm360_trainer.prepare.inputs.find_files", None)  # nothing is read
    assert run([*command[:-1], f"{tmp_path}/{out}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"llm360: error: cannot write {tmp_path}")
    assert told.endswith("; remove it or choose another folder\n")


def test_an_address_is_no_file(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        run([*command[:-1], "s3://bucket/tokenizer.json"])
    assert stop.value.code == 2
    assert "'s3://bucket/tokenizer.json' is an address; give a path on this machine" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_a_full_disk_keeps_no_half_of_the_file(command, tmp_path, monkeypatch, capsys):
    (tmp_path / "new").mkdir()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    assert run(command) == 2
    told = capsys.readouterr().err
    assert told.startswith(
        f"llm360: error: cannot write {tmp_path}/new/tokenizer.json: the disk of {tmp_path}/new is full"
    )
    assert list((tmp_path / "new").iterdir()) == []


def test_a_pipe_takes_the_tokenizer_and_is_not_read(command, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run([*command[:-1], f"{tmp_path}/pipe"]) == 0
        assert os.read(reader, 10).startswith(b"{")
    finally:
        os.close(reader)
