"""Manifests: their digests, their form, and what they refuse."""

from __future__ import annotations

import json

import pytest

from llm360.canonical import canonical_json, digest_of, sha256_digest
from llm360.errors import IntegrityError, ObjectNotFoundError
from llm360.release.checkpoint import (
    CheckpointManifest,
    FileRecord,
    TensorRecord,
    load_checkpoint_manifest,
    tensors_digest,
)

ZERO = "sha256:" + "0" * 64
TENSOR = TensorRecord(name="w", file="model/a.safetensors", dtype="F32", shape=(2, 3), sha256=ZERO)
STATE = TENSOR.model_copy(update={"name": "w.master", "file": "state/b.safetensors"})


def manifest(**changes):
    values = {
        "step": 2,
        "tokens": 64,
        "attempt": 1,
        "world_size": 2,
        "config_digest": ZERO,
        "files": tuple(FileRecord(key=key, bytes=32, sha256=ZERO) for key in (TENSOR.file, STATE.file)),
        "model": (TENSOR,),
        "state": (STATE,),
        "model_digest": tensors_digest([TENSOR]),
        "state_digest": tensors_digest([STATE]),
    }
    return CheckpointManifest(**values | changes)


def test_digest_of_tensors_says_what_they_hold_and_nothing_else():
    assert tensors_digest([TENSOR]) == digest_of({"w": {"dtype": "F32", "shape": [2, 3], "sha256": ZERO}})
    assert tensors_digest([TENSOR, STATE]) == tensors_digest([STATE, TENSOR])
    assert tensors_digest([TENSOR.model_copy(update={"file": "model/other"})]) == tensors_digest([TENSOR])
    for change in ({"name": "v"}, {"dtype": "BF16"}, {"shape": (3, 2)}, {"sha256": "sha256:" + "1" * 64}):
        assert tensors_digest([TENSOR.model_copy(update=change)]) != tensors_digest([TENSOR])


def test_tensor_listed_twice():
    with pytest.raises(IntegrityError, match="'w' is listed twice"):
        tensors_digest([TENSOR, TENSOR])


def test_round_trip():
    stored = manifest().encode()
    assert CheckpointManifest.decode(stored, "here") == manifest()
    assert canonical_json(json.loads(stored)) == stored
    assert manifest().prefix == "checkpoints/step_000000002/a001"
    assert manifest().total_bytes == 64
    assert [file.key for file in manifest().part("state")] == [STATE.file]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": tuple(reversed(manifest().files))}, "not sorted by key"),
        ({"files": (manifest().files[0],) * 2}, "each once"),
        ({"files": (manifest().files[0],)}, "'state/b.safetensors', which is not a listed file below state/"),
        ({"model": (STATE,)}, "not a listed file below model/"),
        (
            {
                "files": (*manifest().files, FileRecord(key="state/b.txt", bytes=1, sha256=ZERO)),
                "state": (STATE.model_copy(update={"file": "state/b.txt"}),),
            },
            "which is not a .safetensors file",
        ),
        ({"model_digest": ZERO}, "model_digest is sha256:0000"),
        ({"state_digest": ZERO}, "state_digest is sha256:0000"),
    ],
)
def test_inconsistent(changes, message):
    with pytest.raises(IntegrityError, match=message):
        CheckpointManifest.decode(manifest(**changes).encode(), "here")


@pytest.mark.parametrize(
    "fault",
    [
        lambda _: b"",
        lambda _: b"[]",
        lambda data: data.replace(b'"step":2', b'"step":-2'),
        lambda data: data.replace(b'"step":2', b'"steps":2'),
        lambda data: data.replace(b"llm360-checkpoint/1", b"llm360-checkpoint/2"),
        lambda data: data.replace(b"model/a", b"model/../../a"),
        lambda data: data.replace(b"model/a", b"/model/a"),
        lambda data: data + b"\n",
    ],
)
def test_malformed(fault):
    with pytest.raises(IntegrityError, match="here is not"):
        CheckpointManifest.decode(fault(manifest().encode()), "here")


def test_digest_comes_before_anything_is_parsed(memory):
    prefix = manifest().prefix
    with pytest.raises(ObjectNotFoundError):
        load_checkpoint_manifest(memory, prefix, ZERO)
    memory.put(f"{prefix}/manifest.json", b"not even JSON")
    with pytest.raises(IntegrityError, match=r"has digest .*, but the ledger names"):
        load_checkpoint_manifest(memory, prefix, ZERO)


def test_manifest_lies_in_the_folder_it_describes(memory):
    data = manifest().encode()
    memory.put("checkpoints/step_000000003/a001/manifest.json", data)
    with pytest.raises(IntegrityError, match="describes checkpoints/step_000000002/a001"):
        load_checkpoint_manifest(memory, "checkpoints/step_000000003/a001", sha256_digest(data))


@pytest.mark.parametrize(
    "change",
    [{"world_size": 2**60}, {"step": float("nan")}, {"model": [TENSOR.model_dump(mode="json") | {"name": "\ud800"}]}],
)
def test_values_without_a_canonical_form(change):
    data = json.dumps(json.loads(manifest().encode()) | change).encode()
    with pytest.raises(IntegrityError, match="here is not a checkpoint manifest"):
        CheckpointManifest.decode(data, "here")
