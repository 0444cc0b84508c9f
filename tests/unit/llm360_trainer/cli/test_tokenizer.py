import json

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
