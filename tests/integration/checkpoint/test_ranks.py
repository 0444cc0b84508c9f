"""What a checkpoint holds depends neither on how many ranks wrote it nor on how many read it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llm360.release.checkpoint import CheckpointManifest

RunRanks = Callable[..., Path]

PREFIX = "checkpoints/step_000000005/a001"
SAVE = ({"do": "fill", "seed": 1}, {"do": "save", "prefix": PREFIX, "step": 5})
LOAD = ({"do": "load", "prefix": PREFIX}, {"do": "show", "name": "loaded"})


def contents(store: Path) -> dict[str, str]:
    """The sha256 of every file of the checkpoint but its manifest, which names the world size."""
    folder = store / PREFIX
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def manifest_of(store: Path) -> CheckpointManifest:
    return CheckpointManifest.decode((store / PREFIX / "manifest.json").read_bytes(), PREFIX)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, run_ranks: RunRanks) -> dict[int, Path]:
    """The same weights and moments, written by 1, 2, 3 and 4 ranks."""
    made = {}
    for world in (1, 2, 3, 4):
        made[world] = tmp_path_factory.mktemp(f"world-{world}")
        run_ranks(made[world], world, *SAVE, {"do": "show", "name": "saved"})
    return made


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_files_do_not_depend_on_the_number_of_ranks(stores: dict[int, Path], world: int) -> None:
    assert contents(stores[world]) == contents(stores[1])
    assert len(contents(stores[1])) == 2 * 5 + len(["config.json", "tokenizer.json", "model.safetensors.index.json"])


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3, 4])
def test_digests_do_not_depend_on_the_number_of_ranks(stores: dict[int, Path], world: int) -> None:
    one, many = manifest_of(stores[1]), manifest_of(stores[world])
    assert (many.model_digest, many.state_digest) == (one.model_digest, one.state_digest)
    assert many == one.model_copy(update={"world_size": world})


@pytest.mark.slow
def test_the_manifest_names_the_files_bytes(stores: dict[int, Path]) -> None:
    recorded = {file.key: file.sha256.removeprefix("sha256:") for file in manifest_of(stores[3]).files}
    assert recorded == contents(stores[3])


@pytest.mark.slow
def test_hybrid_sharding_writes_the_same_files(stores: dict[int, Path], tmp_path: Path, run_ranks: RunRanks) -> None:
    shown = run_ranks(tmp_path, 4, *SAVE, *LOAD, {"do": "save", "prefix": "again", "step": 5}, shard_size=2)
    assert contents(tmp_path) == contents(stores[1])
    assert manifest_of(tmp_path).state_digest == manifest_of(stores[1]).state_digest
    assert (shown / "loaded").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_any_number_of_ranks_reads_what_three_wrote(stores: dict[int, Path], run_ranks: RunRanks, world: int) -> None:
    one = run_ranks(stores[1], 1, *SAVE, {"do": "show", "name": "saved"})
    shown = run_ranks(stores[3], world, *LOAD)
    wanted, found = load_file(one / "saved"), load_file(shown / "loaded")
    assert wanted.keys() == found.keys()
    for name, tensor in found.items():
        if name.endswith(".step"):
            assert tensor.item() == 5, name
        else:
            assert torch.equal(tensor, wanted[name]), name


@pytest.mark.slow
def test_training_goes_on_with_the_same_bits(tmp_path: Path, run_ranks: RunRanks) -> None:
    train = {"do": "train", "steps": 2}
    save = {"do": "save", "prefix": PREFIX, "step": 2}
    fill = {"do": "fill", "seed": 3}
    undisturbed = run_ranks(tmp_path, 2, fill, train, save, {"do": "evaluate"}, train, {"do": "show", "name": "end"})
    resumed = run_ranks(tmp_path, 2, {"do": "load", "prefix": PREFIX}, train, {"do": "show", "name": "end"})
    wanted, found = load_file(undisturbed / "end"), load_file(resumed / "end")
    for name, tensor in found.items():
        if not name.endswith(".step"):
            assert torch.equal(tensor, wanted[name]), name


@pytest.mark.slow
def test_whole_parameters_after_an_evaluation_are_sharded_again(
    stores: dict[int, Path], tmp_path: Path, run_ranks: RunRanks
) -> None:
    run_ranks(tmp_path, 2, SAVE[0], {"do": "evaluate"}, SAVE[1])
    assert contents(tmp_path) == contents(stores[1])


@pytest.mark.slow
def test_tied_embeddings_and_bfloat16(tmp_path: Path, run_ranks: RunRanks, tiny_config: dict[str, int]) -> None:
    config = tiny_config | {"tied_embeddings": True}
    save = {"do": "save", "prefix": PREFIX, "step": 5, "dtype": "bfloat16"}
    folders = [run_ranks(tmp_path / str(world), world, SAVE[0], save, config=config) for world in (1, 3)]
    assert len(folders) == 2
    assert contents(tmp_path / "1") == contents(tmp_path / "3")
    manifest = manifest_of(tmp_path / "3")
    assert {record.dtype for record in manifest.model} == {"BF16"}
    assert {record.dtype for record in manifest.state} == {"F32"}
    assert "lm_head.weight" not in {record.name for record in manifest.model}
    for record in manifest.model:
        stored = load_file(tmp_path / "3" / PREFIX / record.file)[record.name]
        state = load_file(tmp_path / "3" / PREFIX / state_file(manifest, record.name))
        assert torch.equal(stored, state[f"{record.name}.master"].bfloat16())


def state_file(manifest: CheckpointManifest, name: str) -> str:
    return next(record.file for record in manifest.state if record.name == f"{name}.master")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["missing", "flipped"])
def test_every_rank_names_the_faulty_file_and_loads_nothing(tmp_path: Path, run_ranks: RunRanks, fault: str) -> None:
    run_ranks(tmp_path, 2, *SAVE)
    path = tmp_path / PREFIX / "state" / "layer_00001.safetensors"
    data = bytearray(path.read_bytes())
    if fault == "missing":
        path.unlink()
    else:
        data[-1] ^= 1
        path.write_bytes(data)
    shown = run_ranks(tmp_path, 3, LOAD[0] | {"error": "error"}, LOAD[1])
    for rank in range(3):
        message = (shown / f"error-{rank}").read_text()
        assert message.startswith("IntegrityError: ")
        assert "state/layer_00001.safetensors" in message
        assert "layer_00000" not in message
    masters = [tensor for name, tensor in load_file(shown / "loaded").items() if name.endswith(".master")]
    assert all((tensor == -7.0).all() for tensor in masters)


@pytest.mark.slow
def test_the_index_names_the_file_of_each_tensor(stores: dict[int, Path]) -> None:
    folder = stores[2] / PREFIX / "model"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    sizes = 0
    for name, file in index["weight_map"].items():
        sizes += load_file(folder / file)[name].nbytes
    assert index["metadata"]["total_size"] == sizes
    assert index["weight_map"]["model.embed_tokens.weight"] == "model-00001-of-00005.safetensors"
    assert index["weight_map"]["lm_head.weight"] == "model-00005-of-00005.safetensors"
