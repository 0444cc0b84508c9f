"""The writer and the loader of one rank without a process group; groups of ranks: tests/integration/checkpoint."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from llm360.errors import InputError, IntegrityError, LLM360Error, StorageError, StorageUnavailableError
from llm360.release.checkpoint import CheckpointManifest
from llm360.storage import Storage, open_storage
from llm360.storage.file import FileStorage
from llm360_trainer.checkpoint.loader import load_state
from llm360_trainer.checkpoint.parts import RankPart, merge_parts
from llm360_trainer.checkpoint.verify import verify_checkpoint_files
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import to_hf_name

if TYPE_CHECKING:
    from conftest import Training, TroubledStorage

PREFIX = "checkpoints/step_000000003/a001"
CONFIG_DIGEST = "sha256:" + 64 * "0"


def make_writer(storage: Storage, **options: object) -> CheckpointWriter:
    settings: dict[str, object] = {
        "rename": to_hf_name,
        "model_dtype": torch.float32,
        "model_files": {"config.json": b"{}"},
    }
    return CheckpointWriter(storage, **(settings | options))  # type: ignore[arg-type]


def write(storage: Storage, training: Training, step: int = 3, prefix: str = PREFIX) -> CheckpointManifest:
    writer = make_writer(storage)
    writer.start(step, prefix, training.model, training.optimizer)
    return merge_parts(writer.wait(60), tokens=9, attempt=1, config_digest=CONFIG_DIGEST)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "store"))


def test_what_is_written_is_read_back(storage: Storage, training: Training) -> None:
    wanted = training.tensors()
    manifest = write(storage, training)
    training.scramble(1)
    load_state(storage, PREFIX, manifest, training.model, training.optimizer, rename=to_hf_name)
    for name, tensor in training.tensors().items():
        expected = torch.tensor(3.0) if name.endswith(".step") else wanted[name]
        assert torch.equal(tensor, expected), name


@pytest.mark.parametrize("block_bytes", [64, 100])
def test_what_is_read_back_in_blocks_is_the_same(
    storage: Storage, training: Training, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("loader", "verify"):
        monkeypatch.setattr(f"llm360_trainer.checkpoint.{module}.BLOCK_BYTES", block_bytes)
    test_what_is_written_is_read_back(storage, training)


class Spoiling(FileStorage):
    """A folder whose ranges are not what the whole files were: as `spoil` says of each key and its bytes."""

    spoil: Callable[[str, bytes], bytes]

    def at(self, prefix: str) -> FileStorage:
        inner = Spoiling(self.root / prefix, self.options)
        inner.spoil = self.spoil
        return inner

    def get_range(self, key: str, start: int, length: int) -> bytes:
        data = super().get_range(key, start, length)
        return self.spoil(key, data)


@pytest.mark.parametrize("key", ["state/embeddings.safetensors", "state/layer_00001.safetensors"])
@pytest.mark.parametrize("fault", [0, 20, -1, "shorter", "longer"])
def test_bytes_that_change_after_they_were_verified_are_not_loaded(
    storage: Storage, training: Training, tmp_path: Path, key: str, fault: int | str
) -> None:
    manifest = write(storage, training)

    def spoil(read: str, data: bytes) -> bytes:
        if read != key:
            return data
        if fault == "shorter":
            return data[:-1]
        if fault == "longer":
            return data + b"0"
        flipped = bytearray(data)
        flipped[int(fault)] ^= 1
        return bytes(flipped)

    spoiling = Spoiling(tmp_path / "store", storage.options)
    spoiling.spoil = spoil
    with pytest.raises(StorageError, match=f"{key} no longer holds at bytes .* what was verified just before"):
        load_state(spoiling, PREFIX, manifest, training.model, training.optimizer, rename=to_hf_name)


def test_the_manifest_lists_exactly_the_files(storage: Storage, training: Training) -> None:
    manifest = write(storage, training)
    sizes = {info.key.removeprefix(f"{PREFIX}/"): info.size for info in storage.list(PREFIX)}
    assert sizes == {file.key: file.bytes for file in manifest.files}
    assert {"model/config.json", "model/model.safetensors.index.json"} <= sizes.keys()


def test_two_runs_write_the_same_bytes(storage: Storage, training: Training) -> None:
    first, second = write(storage, training), write(storage, training, prefix="again")
    assert first == second
    for file in first.files:
        assert storage.get(f"{PREFIX}/{file.key}") == storage.get(f"again/{file.key}")


def test_training_goes_on_while_the_upload_waits(
    troubled_storage: Callable[[], TroubledStorage], training: Training
) -> None:
    storage = troubled_storage()
    writer = make_writer(storage)
    wanted = training.tensors()
    writer.start(3, PREFIX, training.model, training.optimizer)
    assert writer.poll() == []
    training.scramble(1)  # the next steps change the weights before a byte is written
    storage.open.set()
    manifest = merge_parts(writer.wait(60), tokens=9, attempt=1, config_digest=CONFIG_DIGEST)
    load_state(storage, PREFIX, manifest, training.model, training.optimizer, rename=to_hf_name)
    assert torch.equal(training.tensors()["norm.weight.master"], wanted["norm.weight.master"])


def test_a_second_start_waits_for_the_first(
    troubled_storage: Callable[[], TroubledStorage], training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = troubled_storage()
    writer = make_writer(storage)
    writer.start(3, PREFIX, training.model, training.optimizer)
    original = writer._collect
    waited = []

    def collect(timeout: float | None) -> None:
        waited.append(timeout)
        storage.open.set()
        original(timeout)

    monkeypatch.setattr(writer, "_collect", collect)
    stall = writer.start(4, "second", training.model, training.optimizer)
    assert waited == [None]
    assert stall > 0
    assert [part.step for part in writer.wait(60)] == [3, 4]


def test_a_part_is_handed_out_once(storage: Storage, training: Training) -> None:
    writer = make_writer(storage)
    writer.start(3, PREFIX, training.model, training.optimizer)
    assert [(part.step, part.prefix) for part in writer.wait(60)] == [(3, PREFIX)]
    assert writer.poll() == []


@pytest.mark.parametrize(
    "next_call",
    [
        lambda writer, _: poll_until_it_ends(writer),
        lambda writer, _: writer.wait(60),
        lambda writer, training: writer.start(4, "second", training.model, training.optimizer),
    ],
    ids=["poll", "wait", "start"],
)
def test_a_failed_upload_is_raised_by_the_next_call(
    troubled_storage: Callable[[], TroubledStorage],
    training: Training,
    next_call: Callable[[CheckpointWriter, Training], object],
) -> None:
    storage = troubled_storage()
    storage.failures.append(StorageError("the disk is full", reason="DiskFull"))
    storage.open.set()
    writer = make_writer(storage)
    writer.start(3, PREFIX, training.model, training.optimizer)
    with pytest.raises(StorageError, match="the disk is full"):
        next_call(writer, training)
    assert writer.poll() == []


def poll_until_it_ends(writer: CheckpointWriter) -> list[RankPart]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if parts := writer.poll():
            return parts
    raise TimeoutError


def test_a_store_that_does_not_answer_is_waited_for(
    troubled_storage: Callable[[], TroubledStorage], training: Training
) -> None:
    storage = troubled_storage()
    storage.failures += [StorageUnavailableError("no answer from the store"), StorageUnavailableError("still none")]
    storage.open.set()
    said: list[str] = []
    writer = make_writer(storage, on_wait=said.append)
    writer.start(3, PREFIX, training.model, training.optimizer)
    (part,) = writer.wait(60)
    assert part.groups == part.expected
    assert "checkpoint of step 3" in said[0]
    assert "no answer from the store" in said[0]
    assert "answers again" in said[-1]


def test_close_gives_up_waiting(troubled_storage: Callable[[], TroubledStorage], training: Training) -> None:
    storage = troubled_storage()
    storage.failures += [StorageUnavailableError("no answer")] * 1000
    writer = make_writer(storage)
    writer.start(3, PREFIX, training.model, training.optimizer)
    writer.close()
    storage.open.set()
    with pytest.raises(LLM360Error, match="given up") as raised:
        writer.wait(60)
    assert raised.value.reason == "CheckpointAbandoned"


@pytest.mark.parametrize("fault", ["missing", "flipped", "longer"])
@pytest.mark.parametrize("key", ["state/embeddings.safetensors", "model/config.json"])
def test_a_faulty_file_is_named(storage: Storage, training: Training, key: str, fault: str) -> None:
    manifest = write(storage, training)
    verify_checkpoint_files(storage, PREFIX, manifest, "all")
    spoil(storage, f"{PREFIX}/{key}", fault)
    with pytest.raises(IntegrityError, match=f"{key} {'is missing' if fault == 'missing' else 'holds other bytes'}"):
        verify_checkpoint_files(storage, PREFIX, manifest, "all")
    other = "model" if key.startswith("state") else "state"
    verify_checkpoint_files(storage, PREFIX, manifest, other)  # type: ignore[arg-type]


def spoil(storage: Storage, key: str, fault: str) -> None:
    data = bytearray(storage.get(key))
    if fault == "missing":
        storage.delete(key)
        return
    data[-1] ^= 1
    storage.put(key, bytes(data) + b"\0" * (fault == "longer"))


@pytest.mark.parametrize("fault", ["missing", "flipped", "longer"])
def test_nothing_is_loaded_from_a_faulty_checkpoint(storage: Storage, training: Training, fault: str) -> None:
    manifest = write(storage, training)
    spoil(storage, f"{PREFIX}/state/layer_00001.safetensors", fault)
    training.scramble(1)
    before = training.tensors()
    with pytest.raises(IntegrityError, match=r"state/layer_00001\.safetensors"):
        load_state(storage, PREFIX, manifest, training.model, training.optimizer, rename=to_hf_name)
    for name, tensor in training.tensors().items():
        assert torch.equal(tensor, before[name]), name


def test_a_checkpoint_of_another_model_is_refused(storage: Storage, training: Training) -> None:
    manifest = write(storage, training)
    shape = tuple(training.model.norm.weight.shape)
    training.model.norm.weight = torch.nn.Parameter(torch.ones(3))
    with pytest.raises(InputError, match=rf"'model.norm.weight.exp_avg' is \('F32', \({shape[0]},\)\) there") as raised:
        load_state(storage, PREFIX, manifest, training.model, training.optimizer, rename=to_hf_name)
    assert raised.value.reason == "CheckpointMismatch"


def test_the_index_and_the_files_agree(storage: Storage, training: Training) -> None:
    manifest = write(storage, training)
    index = json.loads(storage.get(f"{PREFIX}/model/model.safetensors.index.json"))
    assert index["weight_map"] == {record.name: record.file.removeprefix("model/") for record in manifest.model}
