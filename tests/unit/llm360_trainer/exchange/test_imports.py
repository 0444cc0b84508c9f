"""An imported folder is the exported one to the bit, and what does not fit is refused before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from llm360.cli import main
from llm360.errors import InputError, IntegrityError
from llm360.release.weights import check_weights, load_weights_manifest
from llm360.spec import load_run
from llm360.storage import StorageOptions, open_storage
from llm360_trainer.checkpoint.weights import imported_values
from llm360_trainer.exchange.export import export_checkpoint
from llm360_trainer.exchange.imports import import_folder
from llm360_trainer.model import Decoder, to_hf_name
from llm360_trainer.parallel import fill
from llm360_trainer.train.settings import decoder_config

OPTIONS = StorageOptions()
PRESETS = ["amber-tiny", "pythia-tiny", "crystal-tiny"]


@pytest.fixture
def exported(make_release, tmp_path):
    """Exports a release's checkpoint; returns the release and the folder."""

    def export(preset, **options):
        release = make_release(preset)
        return release, export_checkpoint(release.storage, "init", out=tmp_path / "hf", **options).folder

    return export


def begin_with(imported, preset="amber-tiny", **changes):
    """A run that begins with the weights."""
    spec = imported.spec()
    spec["model"] |= changes
    overrides = [f"model.{name}={json.dumps(value)}" for name, value in spec["model"].items()]
    return load_run(preset, [*overrides, "training.sequenceLength=64"], store="file:///release")


@pytest.mark.parametrize("index", ["{", "[]", '{"weight_map": 3}', '{"weights": {}}'])
def test_a_broken_index_is_told(exported, index, tmp_path):
    _, folder = exported("amber-tiny")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(InputError, match=r"model\.safetensors\.index\.json is no index of safetensors \("):
        import_folder(folder, open_storage(str(tmp_path / "weights")))
    assert not (tmp_path / "weights").exists()


def test_places_that_cannot_be_are_told(tmp_path, capsys):
    assert main.run(("import", "hf", str(tmp_path), "--out", "http://127.0.0.1:9/x")) == 2
    assert "--out http://127.0.0.1:9/x can only be read" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main.run(("import", "hf", "s3://bucket/model", "--out", "x"))
    assert "'s3://bucket/model' is an address; give a path on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("preset", PRESETS)
def test_there_and_back_gives_the_same_logits_to_the_bit(exported, preset, tmp_path):
    release, folder = exported(preset, max_shard_bytes=20_000)
    imported = import_folder(folder, open_storage(str(tmp_path / "weights")))
    run = begin_with(imported, preset)
    check_weights(run, OPTIONS)
    model = Decoder(decoder_config(run.spec.model))
    fill(model, imported_values(run.spec.model.weights, OPTIONS, to_hf_name))
    ids = torch.arange(60).reshape(2, 30)
    with torch.no_grad():
        assert torch.equal(model(ids), release.model(ids))
    assert imported.manifest.model_digest == release.manifest.model_digest


def test_bfloat16_stays_as_it_is(exported, tmp_path):
    release, folder = exported("pythia-tiny", dtype="bfloat16")
    imported = import_folder(folder, open_storage(str(tmp_path / "weights")))
    assert {record.dtype for record in imported.manifest.tensors} == {"BF16"}
    values = imported_values(begin_with(imported, "pythia-tiny").spec.model.weights, OPTIONS, to_hf_name)
    embedding = release.model.embed.weight
    assert torch.equal(values("embed.weight", tuple(embedding.shape)), embedding.bfloat16().float())


def test_what_is_printed_begins_a_run(exported, tmp_path, capsys):
    _, folder = exported("amber-tiny")
    words = ("import", "hf", str(folder), "--out", str(tmp_path / "weights"))
    assert main.run(words) == 0
    spec = yaml.safe_load(capsys.readouterr().out)["spec"]
    assert spec["model"]["weights"]["uri"] == f"file://{tmp_path}/weights"
    assert spec["tokenizer"]["uri"] == f"file://{tmp_path}/weights/tokenizer.json"
    assert spec["model"]["hiddenSize"] == 32
    digest = spec["model"]["weights"]["digest"]
    assert load_weights_manifest(open_storage(str(tmp_path / "weights")), digest).form == "llama"
    assert main.run(words) == 2
    assert "there are weights at" in capsys.readouterr().err


def spoil_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors.index.json").unlink()


def with_another_tensor(folder: Path) -> None:
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file) | {"model.extra": torch.zeros(2)}
    save_file(tensors, folder / "model.safetensors")
    without_weights(folder)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(lambda folder: (folder / "config.json").unlink(), "has no config.json", id="no configuration"),
        pytest.param(lambda folder: spoil_config(folder, model_type="mamba"), "model_type is 'mamba'", id="form"),
        pytest.param(lambda folder: spoil_config(folder, vocab_size=9), "config.json makes it [9, 32]", id="shape"),
        pytest.param(lambda folder: spoil_config(folder, num_hidden_layers=3), "lacks 'model.layers.2", id="too few"),
        pytest.param(with_another_tensor, "has besides 'model.extra'", id="too many"),
        pytest.param(without_weights, "has neither model.safetensors.index.json nor", id="no weights"),
    ],
)  # fmt: skip
def test_folders_that_do_not_fit_are_refused(exported, spoil, sentence, tmp_path):
    _, folder = exported("amber-tiny")
    spoil(folder)
    with pytest.raises(InputError) as caught:
        import_folder(folder, open_storage(str(tmp_path / "weights")))
    assert sentence in caught.value.message
    assert not (tmp_path / "weights" / "manifest.json").exists()


def test_weights_of_another_digest_architecture_or_bytes(exported, tmp_path):
    _, folder = exported("amber-tiny")
    imported = import_folder(folder, open_storage(str(tmp_path / "weights")))
    other = {"uri": imported.uri, "digest": "sha256:" + 64 * "0"}
    with pytest.raises(InputError, match=r"spec\.model\.weights\.digest is sha256:0000"):
        check_weights(begin_with(imported, weights=other), OPTIONS)
    with pytest.raises(InputError, match=r"spec\.model\.numLayers is 3, but the weights at .* model with 2"):
        check_weights(begin_with(imported, numLayers=3), OPTIONS)
    with pytest.raises(InputError, match=r"there is no manifest\.json at"):
        check_weights(begin_with(imported, weights=other | {"uri": f"file://{tmp_path}/none"}), OPTIONS)
    check_weights(begin_with(imported, maxPositionEmbeddings=128), OPTIONS)
    check_weights(load_run("amber-tiny", store="file:///release"), OPTIONS)

    file = tmp_path / "weights" / "model-00001-of-00004.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    values = imported_values(begin_with(imported).spec.model.weights, OPTIONS, to_hf_name)
    with pytest.raises(IntegrityError, match="holds other bytes than recorded"):
        values("embed.weight", (300, 32))
    with pytest.raises(IntegrityError, match=r"have shape \[32\] where 'norm.weight' is \[31\]"):
        values("norm.weight", (31,))
