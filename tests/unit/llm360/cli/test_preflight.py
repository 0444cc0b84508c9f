"""What is known before a worker is asked for: each check fails by its own name, and leaves nothing behind."""

import json
from functools import partial

import pytest

from llm360.canonical import sha256_digest
from llm360.cli import main
from llm360.cli.preflight import MAX_BYTES, leave_answer
from llm360.data.manifest import Chunk, DataManifest, Shard, Source, TokenizerInfo
from llm360.release.create import create_release
from llm360.spec import load_run
from llm360.storage import open_storage
from llm360.storage.file import FileStorage

TOKENIZER = b'{"model": {}}'


@pytest.fixture
def check(tmp_path, capsys):
    """Runs the command on a file with a changed amber-tiny: exit code and the answer left for the operator."""

    def run(**spec):
        spec = {"preset": "amber-tiny", "storage": {"uri": (tmp_path / "store").as_uri()}} | spec
        document = {"apiVersion": "llm360.ai/v1alpha1", "kind": "LLM360Run", "metadata": {"name": "a"}, "spec": spec}
        (tmp_path / "run.json").write_text(json.dumps(document))
        message = tmp_path / "message"
        code = main.run(["preflight", str(tmp_path / "run.json"), "--termination-message", str(message)])
        answer = json.loads(message.read_text())
        out, err = capsys.readouterr()
        assert answer["message"] in (out + err)
        return code, answer["reason"], answer["prepares"]

    return run


@pytest.fixture
def data(tmp_path):
    """A folder for a manifest that says what it is told."""
    storage = open_storage(str(tmp_path / "data"))

    def store(*, row_tokens=257, vocab_size=4096, tokenizer=TOKENIZER, eos_id=0):
        if tokenizer is not None:
            storage.put("tokenizer.json", tokenizer)
        manifest = DataManifest(
            row_tokens=row_tokens,
            labels="next_token",
            dtype="uint16",
            has_loss_mask=False,
            sources=(Source(name="a", documents=1, tokens=257, rows=1, dropped_tokens=0),),
            chunks=(Chunk(rows=1, shards=(Shard(key="x", rows=1, bytes=1, sha256=sha256_digest(b"")),)),),
            tokenizer=TokenizerInfo(
                key="tokenizer.json", digest=sha256_digest(TOKENIZER), vocab_size=vocab_size, eos_id=eos_id
            ),
            shuffle="none",
            unigram_entropy=1.0,
            recipe={},
        )
        storage.put("manifest.json", manifest.to_bytes())
        return {"uri": storage.uri, "recipe": "python-stdlib"}

    return store


def test_data_that_a_recipe_can_prepare_is_named(check, tmp_path):
    assert check() == (0, "Passed", ["stage1"])
    assert not list((tmp_path / "store").rglob("probe*"))


def test_data_that_is_there_passes(check, data):
    assert check(data=data()) == (0, "Passed", [])


def test_missing_data_without_a_recipe(check, tmp_path):
    spec = load_run("amber-tiny", store=(tmp_path / "store").as_uri()).document()["spec"]
    assert check(**spec | {"preset": None, "data": {"stages": [{"name": "stage1"}]}})[:2] == (2, "DataMissing")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"row_tokens": 129}, "RowLengthDiffers"),
        ({"vocab_size": 9000}, "TokenizerTooLarge"),
        ({"tokenizer": b"another"}, "TokenizerDiffers"),
        ({"tokenizer": None}, "TokenizerMissing"),
    ],
)
def test_data_that_does_not_fit(check, data, changes, reason):
    assert check(data=data(**changes)) == (2, reason, [])


def test_tokenizer_of_another_digest(check, data):
    assert check(data=data(), tokenizer={"digest": sha256_digest(b"other")})[:2] == (2, "TokenizerDiffers")


def test_documents_that_end_with_another_token(check, data):
    assert check(data=data(eos_id=0), tokenizer={"eosId": 0})[:2] == (0, "Passed")
    assert check(data=data(eos_id=0), tokenizer={"eosId": 2})[:2] == (2, "TokenizerDiffers")


def test_tokenizer_that_data_is_to_be_made_with(check, tmp_path):
    uri = (tmp_path / "made" / "tokenizer.json").as_uri()
    assert check(tokenizer={"uri": uri})[:2] == (2, "TokenizerMissing")
    open_storage(str(tmp_path / "made")).put("tokenizer.json", TOKENIZER)
    assert check(tokenizer={"uri": uri, "digest": sha256_digest(TOKENIZER)}) == (0, "Passed", ["stage1"])
    assert check(tokenizer={"uri": uri, "digest": sha256_digest(b"other")})[:2] == (2, "TokenizerDiffers")


def test_weights_that_are_not_there(check, tmp_path):
    weights = {"uri": (tmp_path / "weights").as_uri(), "digest": sha256_digest(b"")}
    assert check(model={"weights": weights})[:2] == (2, "WeightsMissing")


def test_store_without_conditional_create(check, monkeypatch):
    monkeypatch.setattr(FileStorage, "create", FileStorage.put)
    assert check()[:2] == (2, "ConditionalCreateUnsupported")


def test_store_that_cannot_be_written(check, tmp_path):
    (tmp_path / "store").write_text("a file where the folder should be")
    assert check()[:2] == (2, "NotADirectory")


def test_release_of_another_run(check, tmp_path):
    run = load_run("amber-tiny", ["training.seed=7"], store=(tmp_path / "store").as_uri())
    create_release(open_storage(run.store), run.identity())
    assert check()[:2] == (2, "IdentityChanged")


def test_wrong_specification(check):
    assert check(training={"batchSize": -1})[:2] == (2, "InvalidSpec")


@pytest.mark.parametrize("letter", ["x", "é", '"'])
def test_a_long_answer_is_cut_to_what_kubernetes_keeps(tmp_path, letter):
    leave = partial(leave_answer, tmp_path / "message", "Failed")
    leave(letter * 9000, ("stage1",))
    data = (tmp_path / "message").read_bytes()
    assert len(data) <= MAX_BYTES
    assert json.loads(data)["message"].endswith("…")


def test_answer_that_cannot_be_left_is_told_behind_what_is_wrong(tmp_path, capsys):
    words = ["--termination-message", str(tmp_path / "none" / "message")]
    assert main.run(["preflight", "amber-tiny", "--store", str(tmp_path / "store"), *words]) == 1
    assert f"cannot write {tmp_path}/none/message: no such file or directory" in capsys.readouterr().err
    assert main.run(["preflight", "amber-tiny", "--store", "s3:/bucket/x", *words]) == 2
    assert "did you mean 's3://bucket/x'?" in capsys.readouterr().err
