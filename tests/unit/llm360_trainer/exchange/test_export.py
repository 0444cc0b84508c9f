"""An exported folder holds the checkpoint's bits, and other programs read it."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import signal
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open

from llm360.cli import main
from llm360.errors import InputError, IntegrityError
from llm360.release.checkpoint import CheckpointManifest, load_checkpoint_manifest
from llm360.release.create import open_release
from llm360.release.selection import find_checkpoint
from llm360.release.writer import TrainingWriter
from llm360_trainer.exchange.export import export_checkpoint
from llm360_trainer.exchange.folder import plan_shards
from llm360_trainer.model.forms import decoder_of

PRESETS = {"amber-tiny": "llama", "pythia-tiny": "gpt_neox", "crystal-tiny": "crystalcoder"}


def raises(error):
    """A function that takes anything and raises the error."""

    def refuse(*_, **__):
        raise error

    return refuse


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    tensors = {}
    for name, file in index["weight_map"].items():
        with safe_open(folder / file, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
            tensors[name] = opened.get_tensor(name)
    assert index["metadata"]["total_size"] == sum(t.numel() * t.itemsize for t in tensors.values())
    return tensors


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_are_the_checkpoints_to_the_bit(make_release, preset, tmp_path):
    release = make_release(preset)
    done = export_checkpoint(release.storage, "init", out=tmp_path / "out", max_shard_bytes=20_000)
    assert (done.form, done.dtype, done.step) == (PRESETS[preset], "float32", 0)
    assert done.num_files > 2
    form, config = decoder_of(json.loads((done.folder / "config.json").read_text()))
    restored = form.restore(config, weights_of(done.folder))
    state = release.model.state_dict()
    assert restored.keys() == state.keys()
    assert all(torch.equal(restored[name], value) for name, value in state.items())


@pytest.mark.parametrize("preset", ["amber-tiny", "pythia-tiny"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_opens_it(make_release, preset, dtype, tmp_path):
    release = make_release(preset)
    folder = export_checkpoint(release.storage, "0", out=tmp_path / "out", dtype=dtype, max_shard_bytes=20_000).folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, about its dependencies
        from transformers import AutoModelForCausalLM, AutoTokenizer

        theirs, loading = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    assert not any(loading.values()), loading
    assert theirs.dtype == getattr(torch, dtype)
    assert tokenizer.decode(tokenizer("export and import")["input_ids"]) == "export and import"
    assert tokenizer.eos_token_id == theirs.generation_config.eos_token_id == theirs.config.eos_token_id
    ids = torch.arange(40).reshape(2, 20)
    with torch.no_grad():
        for parameter in release.model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))
        torch.testing.assert_close(theirs.float()(ids).logits, release.model(ids), rtol=0, atol=1e-5)


def test_float32_of_a_bfloat16_release_comes_from_its_state(make_release, tmp_path):
    release = make_release("crystal-tiny", "checkpoints.dtype=bfloat16")
    plain = export_checkpoint(release.storage, "init", out=tmp_path / "plain")
    full = export_checkpoint(release.storage, "init", out=tmp_path / "full", dtype="float32")
    assert (plain.dtype, full.dtype) == ("bfloat16", "float32")
    embedding = release.model.embed.weight
    assert torch.equal(weights_of(full.folder)["transformer.wte.weight"], embedding)
    assert torch.equal(weights_of(plain.folder)["transformer.wte.weight"], embedding.bfloat16())


def test_folder_names_what_it_came_from(make_release, tmp_path):
    release = make_release("amber-tiny")
    folder = export_checkpoint(release.storage, "init", out=tmp_path / "out").folder
    origin = json.loads((folder / "llm360.json").read_text())
    assert (origin["step"], origin["labels"]) == (0, ["init"])
    assert origin["model_digest"] == release.manifest.model_digest
    assert origin["config_digest"] == release.run.identity_digest()
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "whoever reads one file reads all"


def card_of(folder: Path) -> ModelCard:
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


def test_the_hub_reads_a_card_with_the_words_of_the_release(make_release, tmp_path):
    release = make_release("pythia-tiny")
    words = {"license": "Apache-2.0", "authors": ["Ada Lovelace"], "description": 'Books: "all"\n---\nof them — ja'}
    TrainingWriter(open_release(release.storage)).claim(
        world_size=1, device="cpu", operations={"release": words}, environment={}
    )
    card = card_of(export_checkpoint(release.storage, "init", out=tmp_path / "out").folder)
    assert card.data.to_dict() == {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["llm360"],
    }
    assert 'Books: "all"\n\\---\nof them — ja\n' in card.text
    assert "| Authors | Ada Lovelace |" in card.text
    assert "| Architecture | `GPTNeoXForCausalLM` |" in card.text
    assert f"| Parameters | {sum(p.numel() for p in release.model.parameters()):,} |" in card.text
    assert release.manifest.model_digest in card.text


def test_a_card_names_the_data_and_how_to_open_the_folder(trained, tmp_path):
    folder = export_checkpoint(trained.storage, "ckpt_001", out=tmp_path / "out").folder
    card = card_of(folder)
    assert card.data.license is None, "nobody stated one, and the preset's is not theirs"
    all_rows = sum(source.rows for source in trained.manifest.sources)
    for source, said in zip(trained.manifest.sources, trained.manifest.recipe["sources"], strict=True):
        rows = f"{source.rows:,} | {source.rows * trained.manifest.predictions:,} | {source.rows / all_rows:.1%}"
        assert f"| stage1 | {source.name} | {source.documents:,} | {rows} | `{said['digest']}` |" in card.text
    with warnings.catch_warnings(), contextlib.chdir(folder):
        warnings.simplefilter("ignore")  # transformers' own, about its dependencies
        exec(re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1], found := {})
    assert found["model"].num_parameters() == sum(
        math.prod(tensor.shape) for tensor in load_manifest_of(trained, "ckpt_001").model
    )
    assert found["tokenizer"].vocab_size == trained.manifest.tokenizer.vocab_size


def load_manifest_of(release, label: str) -> CheckpointManifest:
    body = find_checkpoint(open_release(release.storage).history(), label).body
    return load_checkpoint_manifest(release.storage, body.prefix, body.digests.manifest)


@pytest.mark.parametrize(
    ("published", "asked", "weights"),
    [
        ("float32", "bfloat16", "bfloat16, rounded from the checkpoint's float32"),
        ("bfloat16", "float32", "float32, from the optimizer's state; the checkpoint's model is bfloat16"),
        ("bfloat16", None, "bfloat16"),
    ],
)
def test_a_card_says_how_the_weights_came_by_their_dtype(make_release, tmp_path, published, asked, weights):
    release = make_release("crystal-tiny", f"checkpoints.dtype={published}")
    text = card_of(export_checkpoint(release.storage, "init", out=tmp_path / "out", dtype=asked).folder).text
    assert f"| Weights | {weights} |" in text
    assert "trust_remote_code=True" in text


def test_other_bytes_are_refused_and_nothing_is_left(make_release, tmp_path):
    release = make_release("amber-tiny")
    file = next(release.folder.glob("checkpoints/*/*/model/model-00002*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(IntegrityError, match="holds other bytes than recorded"):
        export_checkpoint(release.storage, "init", out=tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.mark.parametrize(
    ("label", "override", "sentence"),
    [
        ("ckpt_001", "release.license=MIT", "there is no checkpoint 'ckpt_001'; there are init"),
        ("init", "model.mup.outputLogitsScale=0.5", "the release's architecture is none that the forms can describe"),
    ],
)
def test_what_cannot_be_exported(make_release, label, override, sentence, tmp_path):
    release = make_release("amber-tiny", override)
    with pytest.raises(InputError) as caught:
        export_checkpoint(release.storage, label, out=tmp_path / "out")
    assert sentence in caught.value.message
    assert not (tmp_path / "out").exists()


def test_command_writes_beside_the_user_and_not_twice(make_release, tmp_path, monkeypatch, capsys):
    release = make_release("pythia-tiny")
    monkeypatch.chdir(tmp_path)
    words = ("export", "hf", str(release.folder), "--checkpoint", "init")
    assert main.run((*words, "-o", "json")) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["folder"], shown["form"], shown["files"]) == ("release-init", "gpt_neox", 1)
    assert main.run(words) == 2
    assert "--out release-init exists already" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["s3://bucket/model", "file:model", ""])
def test_an_address_is_no_folder(make_release, tmp_path, monkeypatch, capsys, out):
    release = make_release("pythia-tiny")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main.run(("export", "hf", str(release.folder), "--checkpoint", "init", "--out", out))
    assert stop.value.code == 2
    assert "give a path on this machine" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_a_folder_that_cannot_be_is_told_before_the_release_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    out = f"{tmp_path}/file/out"
    assert main.run(("export", "hf", "http://127.0.0.1:9/run", "--checkpoint", "init", "--out", out)) == 2
    assert capsys.readouterr().err == (
        f"llm360: error: cannot write {out}: {tmp_path}/file is a file, not a folder; remove it or choose another"
        " folder\n"
    )


@pytest.mark.parametrize("failing", ["weights", "tokenizer"])
def test_a_disk_that_fills_up_is_told_and_nothing_is_left(make_release, tmp_path, monkeypatch, capsys, failing):
    release = make_release("amber-tiny")
    if failing == "weights":
        problem = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        monkeypatch.setattr("llm360_trainer.exchange.folder.save_file", raises(problem))
    else:
        monkeypatch.setattr(Path, "write_bytes", raises(OSError(errno.ENOSPC, "No space left on device")))
    out = tmp_path / "new/out"
    assert main.run(("export", "hf", str(release.folder), "--checkpoint", "init", "--out", str(out))) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"llm360: error: cannot write {out}: the disk of ")
    assert len(told.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_weights_that_the_disk_has_no_room_for_are_not_begun(make_release, tmp_path, monkeypatch, capsys):
    release = make_release("amber-tiny")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=2**20, free=2**10))
    monkeypatch.setattr("llm360_trainer.exchange.export.write_folder", raises(AssertionError("begun")))
    words = ("export", "hf", str(release.folder), "--checkpoint", "init", "--out", str(tmp_path / "out"))
    assert main.run(words) == 2
    assert "has 0.0 MiB free; free some space or choose another folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line_and_leaves_nothing(make_release, tmp_path, monkeypatch, capsys, number):
    release = make_release("amber-tiny")
    out = tmp_path / "out"
    out.mkdir()

    def write(folder, *_):
        (folder / "file").touch()
        os.kill(os.getpid(), number)

    monkeypatch.setattr("llm360_trainer.exchange.export.write_folder", write)
    before = signal.signal(signal.SIGTERM, raises(AssertionError("nobody obeys")))
    try:
        words = ("export", "hf", str(release.folder), "--checkpoint", "init", "--out", str(out))
        assert main.run(words) == 128 + number
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err == "llm360: interrupted; nothing was written, run it again\n"
    assert not list(out.iterdir())


def test_files_are_closed_before_they_grow_too_large():
    sizes = {"a": 4, "b": 4, "c": 3, "d": 20, "e": 1}
    assert [list(shard) for shard in plan_shards(sizes, 8)] == [["a", "b"], ["c"], ["d"], ["e"]]
    assert plan_shards(sizes, 100) == [sizes]
