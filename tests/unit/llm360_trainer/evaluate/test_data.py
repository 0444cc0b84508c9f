"""Data sets come from the hub or a mirror, the same rows with the same digests; what is missing is one sentence."""

from __future__ import annotations

import json

import datasets
import pytest
from synthetic.eval_data import all_data

from llm360.cli import main
from llm360.errors import InputError, IntegrityError, LLM360Error
from llm360.storage import open_storage
from llm360_trainer.evaluate.data import TaskData, rows_digest
from llm360_trainer.evaluate.mirror import DataName, read_dataset, write_dataset

ARC = DataName(path="allenai/ai2_arc", config="ARC-Easy")


@pytest.fixture
def hub(monkeypatch) -> list[tuple]:
    """The hub, which tests cannot reach, has the tiny sets; notes what it was asked for."""
    asked = []

    def load_dataset(path, name=None, **arguments):
        asked.append((path, name))
        return datasets.DatasetDict(all_data()[DataName(path=path, config=name)])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


def test_a_mirror_that_the_command_filled_gives_what_the_hub_gives(hub, tmp_path, capsys):
    words = (
        "eval",
        "mirror",
        "--tasks",
        "arc_easy,hellaswag,truthfulqa_mc2,mmlu_anatomy",
        "--out",
        str(tmp_path / "mirror"),
    )
    assert main.run((*words, "-o", "json")) == 0
    told = json.loads(capsys.readouterr().out)["data"]
    assert told == [
        "Rowan/hellaswag",
        "allenai/ai2_arc (ARC-Easy)",
        "cais/mmlu (anatomy)",
        "truthfulqa/truthful_qa (multiple_choice)",
    ]
    mirror = open_storage(str(tmp_path / "mirror"))
    for name in (ARC, DataName(path="cais/mmlu", config="anatomy"), DataName(path="Rowan/hellaswag")):
        expected, found = all_data()[name], read_dataset(mirror, name)
        assert found.keys() == expected.keys()
        for split, rows in expected.items():
            assert found[split].to_list() == rows.to_list()
            assert found[split].features == rows.features
            assert rows_digest(found[split]) == rows_digest(rows)
    before = {info.key: mirror.get(info.key) for info in mirror.list()}
    assert main.run(words) == 0
    assert {info.key: mirror.get(info.key) for info in mirror.list()} == before


def test_results_name_the_rows_of_the_data_taken(mirror):
    data = TaskData(mirror)
    with data.serving() as taken:
        rows = datasets.load_dataset("allenai/ai2_arc", "ARC-Easy", trust_remote_code=True)
        assert datasets.load_dataset("allenai/ai2_arc", "ARC-Easy", split="test").to_list() == rows["test"].to_list()
    assert taken == [ARC]
    digests = {split: rows_digest(part) for split, part in all_data()[ARC].items()}
    assert data.digests(taken) == {"allenai/ai2_arc (ARC-Easy)": digests}


def test_further_arguments_are_another_data_set(tmp_path):
    mirror = open_storage(str(tmp_path))
    plain, special = (DataName(path="a/b", arguments=arguments) for arguments in (None, '{"data_dir": "x"}'))
    for name, word in ((plain, "plain"), (special, "special")):
        write_dataset(mirror, name, {"test": datasets.Dataset.from_list([{"word": word}])})
    assert read_dataset(mirror, plain)["test"].to_list() == [{"word": "plain"}]
    assert read_dataset(mirror, special)["test"].to_list() == [{"word": "special"}]


def test_other_bytes_in_a_mirror_are_refused(tmp_path):
    mirror = open_storage(str(tmp_path))
    write_dataset(mirror, ARC, all_data()[ARC])
    path = next(tmp_path.rglob("test.parquet"))
    path.write_bytes(path.read_bytes()[:-5] + b"other")
    with pytest.raises(IntegrityError, match=r"test\.parquet holds other bytes than those of sha256:"):
        read_dataset(mirror, ARC)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"test\.parquet is missing, although its manifest names it"):
        read_dataset(mirror, ARC)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_without_internet_the_sentence_says_which_mirror_to_fill(variable, monkeypatch):
    monkeypatch.setattr(datasets.config, variable, True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with TaskData().serving(), pytest.raises(InputError) as caught:
        datasets.load_dataset("made/up")
    assert "data set made/up is not on this machine" in caught.value.message
    assert "fill a mirror with 'llm360 eval mirror --tasks … --out URI'" in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("offline", "error", "advice", "code"),
    [
        (True, ConnectionError("no network"), "unset HF_HUB_OFFLINE and HF_DATASETS_OFFLINE where there is", 2),
        (False, ConnectionError("no network"), "give this command again where the hub can be reached", 1),
        (False, datasets.exceptions.DatasetNotFoundError("no such set"), "set HF_TOKEN to the token of an account", 2),
    ],
)
def test_a_mirror_that_cannot_be_filled_is_not_told_to_be_filled(
    offline, error, advice, code, monkeypatch, tmp_path, capsys
):
    def no_data(*_, **__):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", no_data)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", offline)
    assert main.run(("eval", "mirror", "--tasks", "arc_easy", "--out", str(tmp_path / "mirror"))) == code
    told = capsys.readouterr().err
    assert advice in told
    assert "eval mirror" not in told
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_cannot_be_written_is_told_before_any_data_is_asked_for(hub, tmp_path, capsys):
    (tmp_path / "file").touch()
    for out, sentence in (("http://host/x", "can only be read"), (f"{tmp_path}/file/x", "is a file, not a folder")):
        assert main.run(("eval", "mirror", "--tasks", "arc_easy", "--out", out)) == 2
        assert sentence in capsys.readouterr().err
    assert hub == []


def test_a_hub_that_does_not_answer_may_answer_later(monkeypatch):
    def no_answer(*_, **__):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", no_answer)
    with TaskData().serving(), pytest.raises(LLM360Error) as caught:
        datasets.load_dataset("made/up")
    assert caught.value.exit_code == 1
