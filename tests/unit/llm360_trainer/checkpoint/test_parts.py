from __future__ import annotations

import hashlib
import pickle
from typing import Any

import pytest

from llm360.errors import LLM360Error
from llm360.release.checkpoint import CheckpointManifest, FileRecord, TensorRecord
from llm360_trainer.checkpoint.parts import RankPart, merge_parts

LABELS = ("layer_00000", "layer_00001", "embeddings", "head")


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def make_part(rank: int, world_size: int, **changes: Any) -> RankPart:
    groups = LABELS[rank::world_size]
    values = {
        "step": 7,
        "prefix": "checkpoints/step_000000007/a003",
        "rank": rank,
        "world_size": world_size,
        "expected": LABELS,
        "groups": groups,
        "files": tuple(
            FileRecord(key=f"{folder}/{g}.safetensors", bytes=3, sha256=digest(folder + g))
            for g in groups
            for folder in ("model", "state")
        ),
        "model": tuple(make_record("model", g, g) for g in groups),
        "state": tuple(make_record("state", g, f"{g}.master") for g in groups),
        "seconds": 1.5 + rank,
    }
    return RankPart(**(values | changes))


def make_record(folder: str, group: str, name: str) -> TensorRecord:
    return TensorRecord(name=name, file=f"{folder}/{group}.safetensors", dtype="F32", shape=(2,), sha256=digest(name))


def merge(parts: list[RankPart]) -> CheckpointManifest:
    return merge_parts(parts, tokens=100, attempt=3, config_digest=digest("config"))


def test_the_manifest_holds_everything_once_and_sorted() -> None:
    manifest = merge([make_part(rank, 3) for rank in (2, 0, 1)])
    assert (manifest.step, manifest.tokens, manifest.attempt, manifest.world_size) == (7, 100, 3, 3)
    assert [file.key for file in manifest.files] == sorted(
        f"{f}/{g}.safetensors" for g in LABELS for f in ("model", "state")
    )
    assert [record.name for record in manifest.model] == sorted(LABELS)
    assert CheckpointManifest.decode(manifest.encode(), "manifest.json") == manifest


@pytest.mark.parametrize("world_size", [1, 2, 4, 6])
def test_digests_do_not_depend_on_the_number_of_ranks(world_size: int) -> None:
    one, many = merge([make_part(0, 1)]), merge([make_part(rank, world_size) for rank in range(world_size)])
    assert (one.model_digest, one.state_digest) == (many.model_digest, many.state_digest)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no rank has sent its part"),
        ([make_part(0, 2)], r"ranks \[0\] are there instead of \[0, 1\]"),
        ([make_part(0, 2), make_part(0, 2)], r"ranks \[0, 0\]"),
        ([make_part(0, 2), make_part(1, 2, step=8)], "rank 1 of 2 at step 8"),
        ([make_part(0, 2), make_part(1, 2, prefix="checkpoints/step_000000007/a002")], "step 7 in .*/a002"),
        ([make_part(0, 2), make_part(1, 2, groups=("layer_00001",))], r"groups .* instead of"),
        ([make_part(0, 2), make_part(1, 2, files=make_part(0, 2).files)], "was written by two ranks"),
        ([make_part(0, 2), make_part(1, 2, model=make_part(0, 2).model)], "tensor layer_00000 was written by two"),
    ],
)
def test_what_is_not_there_exactly_once_is_refused(parts: list[RankPart], message: str) -> None:
    with pytest.raises(LLM360Error, match=message) as raised:
        merge(parts)
    assert raised.value.reason == "CheckpointIncomplete"


def test_a_part_travels_as_json_and_as_pickle() -> None:
    part = make_part(1, 2)
    assert RankPart.model_validate(part.model_dump(mode="json")) == part
    assert pickle.loads(pickle.dumps(part)) == part
