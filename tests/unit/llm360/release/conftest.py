"""A small but complete release, made by the code that makes real ones, and tools to tamper with it."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save

from llm360.canonical import canonical_json, sha256_digest
from llm360.data.manifest import Chunk, DataManifest, Shard, Source, TokenizerInfo
from llm360.data.rows import fixed_binary, shard_schema
from llm360.errors import ObjectExistsError, ObjectNotFoundError
from llm360.release.checkpoint import CheckpointManifest, FileRecord, TensorRecord, tensors_digest
from llm360.release.create import create_release
from llm360.release.entries import Analysis, Eval, Score, Stage, StageDigests
from llm360.release.history import CheckpointEntry
from llm360.release.layout import analysis_prefix, checkpoint_prefix, eval_prefix, manifest_key
from llm360.release.metrics import StepRecord, write_segment
from llm360.release.verify import verify
from llm360.release.verify_report import VerifyReport
from llm360.release.writer import TrainingWriter
from llm360.storage import ObjectInfo, Storage, StorageOptions, open_storage
from llm360.storage.base import UnfinishedWrite

CONFIG = {
    "preset": "test",
    "model": {"numLayers": 1},
    "data": {"remainder": "drop", "stages": [{"name": "one"}, {"name": "two", "remainder": "carry", "steps": 2}]},
    "training": {"batchSize": 4, "sequenceLength": 8},
}
ENVIRONMENT = {"packages": {"llm360": "0.1.0"}, "commit": "0" * 40}
ROW_TOKENS = 9
PREDICTIONS = ROW_TOKENS - 1
BATCH_ROWS = 4
# Two stages: 2 chunks of 2 steps with 2 rows over, then 1 chunk of 2 steps.
STAGES = (("one", (10, 10), "drop", 4), ("two", (9,), "carry", 2))


@dataclass(frozen=True)
class Release:
    """A release in a folder."""

    folder: Path

    @property
    def storage(self) -> Storage:
        return open_storage(str(self.folder))

    def path(self, key: str) -> Path:
        return self.folder / key

    def keys(self, pattern: str) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.glob(pattern))

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted(self.folder.glob("ledger/*.json"))]

    def index(self, kind: str, number: int = 0) -> int:
        """Place in the chain of the `number`th entry of a kind."""
        return [entry["seq"] for entry in self.entries() if entry["kind"] == kind][number]

    def rewrite_config(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the configuration, and make its name and the chain right again."""
        path = next(self.folder.glob("config/*.json"))
        config = json.loads(path.read_bytes())
        change(config)
        data = canonical_json(config)
        old, new = path.stem, sha256_digest(data).removeprefix("sha256:")
        path.unlink()
        self.path(f"config/{new}.json").write_bytes(data)

        def forge(entries: list[dict[str, Any]]) -> None:
            entries[:] = [json.loads(json.dumps(entry).replace(old, new)) for entry in entries]

        self.forge(forge)

    def forge(self, change: Callable[[list[dict[str, Any]]], None]) -> None:
        """Change the entries and make a chain of them again, every link and every name in it right."""
        before = [sha256_digest(canonical_json(entry)) for entry in self.entries()]
        entries = self.entries()
        for entry, name in zip(entries, before, strict=True):
            entry["was"] = name
        change(entries)
        for path in self.folder.glob("ledger/*.json"):
            path.unlink()
        renamed: dict[str, str] = {}
        previous = None
        for seq, entry in enumerate(entries):
            was = entry.pop("was", None)
            text = canonical_json(entry).decode()
            for old, new in renamed.items():
                text = text.replace(old, new)
            data = canonical_json(json.loads(text) | {"seq": seq, "prev": previous})
            self.path(f"ledger/{seq:08d}.json").write_bytes(data)
            previous = sha256_digest(data)
            if was is not None:
                renamed[was.removeprefix("sha256:")] = previous.removeprefix("sha256:")
        for old, new in renamed.items():
            for path in self.folder.glob(f"evals/*/{old}"):
                path.rename(path.with_name(new))

    def verify(self, **options: Any) -> VerifyReport:
        return verify(self.storage, **options)


class ReleaseBuilder:
    """Trains nothing, but commits as a training does."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.ledger = create_release(self.storage, CONFIG)
        self.stages: list[Stage] = []
        self.writer = TrainingWriter(self.ledger)
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def start(self) -> None:
        """A new attempt."""
        self.writer = TrainingWriter(self.ledger)
        self.writer.claim(world_size=2, device="cpu", operations={"workers": 2}, environment=ENVIRONMENT)

    def pin_stages(self) -> None:
        step = tokens = 0
        for index, (name, chunk_rows, remainder, num_steps) in enumerate(STAGES):
            digest = write_data(self.storage.at(f"data/{name}"), chunk_rows)
            stage = Stage(
                attempt=self.writer.attempt,
                step=step,
                tokens=tokens,
                stage=index,
                name=name,
                num_steps=num_steps,
                data=f"data/{name}",
                chunk_rows=chunk_rows,
                batch_rows=BATCH_ROWS,
                remainder=remainder,
                predictions=PREDICTIONS,
                digests=StageDigests(manifest=digest),
            )
            self.writer.stage(stage)
            self.stages.append(stage)
            step, tokens = stage.last_step, stage.tokens_after(stage.last_step)

    def metrics(self, first: int, last: int) -> None:
        self.now += timedelta(seconds=1)  # made again, records are others
        records = [
            StepRecord(
                step=step,
                attempt=self.writer.attempt,
                stage=0 if step <= STAGES[0][3] else 1,
                time=self.now,
                tokens=self.tokens(step),
                loss=1.0 / step,
                learning_rate=0.1,
                grad_norm=1.0,
                step_seconds=1.0,
                tokens_per_second=32.0,
            )
            for step in range(first, last + 1)
        ]
        self.writer.metrics(first, last, self.tokens(last), write_segment(records))

    def tokens(self, step: int) -> int:
        return step * BATCH_ROWS * PREDICTIONS

    def fall_back(self) -> list[CheckpointEntry]:
        """An attempt that has made two checkpoints and falls back to the first, as the second does not verify."""
        self.start()
        self.pin_stages()
        self.checkpoint(0, "init")
        self.metrics(1, 2)
        self.checkpoint(2, published=False)
        initial, damaged = self.ledger.history().branch
        self.writer.fallback([damaged], initial, "step 2 does not verify")
        return [initial, damaged]

    def checkpoint(self, step: int, *labels: str, published: bool = True) -> CheckpointManifest:
        prefix = checkpoint_prefix(step, self.writer.attempt)
        files: list[FileRecord] = []

        def write(key: str, data: bytes) -> None:
            self.storage.put(f"{prefix}/{key}", data)
            files.append(FileRecord(key=key, bytes=len(data), sha256=sha256_digest(data)))

        generator = np.random.default_rng(step)
        weights = {f"w{i}": generator.normal(size=(3, 4)).astype(np.float32) for i in range(2)}
        state = {f"{name}.{kind}": value * 2 for name, value in weights.items() for kind in ("master", "exp_avg")}
        write("model/config.json", b'{"model_type": "llama"}')
        model_records = write_tensors(write, "model/model-00001-of-00001.safetensors", weights)
        state_records = write_tensors(write, "state/layer_00000.safetensors", state)
        manifest = CheckpointManifest(
            step=step,
            tokens=self.tokens(step),
            attempt=self.writer.attempt,
            world_size=2,
            config_digest=self.ledger.history().config_digest,
            files=tuple(sorted(files, key=lambda file: file.key)),
            model=model_records,
            state=state_records,
            model_digest=tensors_digest(model_records),
            state_digest=tensors_digest(state_records),
        )
        self.storage.put(manifest_key(prefix), manifest.encode())
        self.writer.checkpoint(manifest, labels=labels, published=published)
        return manifest


def write_tensors(write: Callable[[str, bytes], None], key: str, tensors: dict[str, Any]) -> tuple[TensorRecord, ...]:
    write(key, save(tensors))
    return tuple(
        TensorRecord(name=name, file=key, dtype="F32", shape=value.shape, sha256=sha256_digest(value.tobytes()))
        for name, value in tensors.items()
    )


def write_data(storage: Storage, chunk_rows: tuple[int, ...]) -> str:
    """Prepared data of so many rows a chunk; returns the manifest's digest."""
    tokenizer = b'{"version": "1.0"}'
    storage.put("tokenizer.json", tokenizer)
    chunks = []
    for chunk, rows in enumerate(chunk_rows):
        ids = np.arange(rows * ROW_TOKENS, dtype=np.uint16).reshape(rows, ROW_TOKENS)
        document = {"document": 0, "offset": 0, "start": 0, "length": ROW_TOKENS}
        columns = [fixed_binary(ids), pa.array([0] * rows, pa.uint16()), [[document]] * rows]
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table(columns, schema=shard_schema(ROW_TOKENS, "uint16", False)), sink)
        data = sink.getvalue().to_pybytes()
        key = f"chunk_{chunk:03d}/0.parquet"
        storage.put(key, data)
        shard = Shard(key=key, rows=rows, bytes=len(data), sha256=sha256_digest(data))
        chunks.append(Chunk(rows=rows, shards=(shard,)))
    total = sum(chunk_rows)
    manifest = DataManifest(
        row_tokens=ROW_TOKENS,
        labels="next_token",
        dtype="uint16",
        has_loss_mask=False,
        sources=(Source(name="text", documents=1, tokens=total * ROW_TOKENS, rows=total, dropped_tokens=0),),
        chunks=tuple(chunks),
        tokenizer=TokenizerInfo(key="tokenizer.json", digest=sha256_digest(tokenizer), vocab_size=1000),
        shuffle="none",
        unigram_entropy=1.0,
        recipe={},
    )
    storage.put("manifest.json", manifest.to_bytes())
    return sha256_digest(manifest.to_bytes())


def build_release(storage: Storage) -> None:
    """A complete run of 6 steps in two attempts; the first was killed after step 3."""
    run = ReleaseBuilder(storage)
    run.start()
    run.pin_stages()
    run.checkpoint(0, "init")
    run.metrics(1, 2)
    run.checkpoint(2, "ckpt_000")
    run.metrics(3, 3)
    run.checkpoint(3, published=False)
    run.storage.put("checkpoints/step_000000004/a001/model/config.json", b"litter")
    run.start()
    run.metrics(4, 4)
    run.checkpoint(4, "ckpt_001")
    run.metrics(5, 6)
    run.checkpoint(6, "stage2-0000")
    run.writer.complete()
    last = run.ledger.history().latest_checkpoint
    assert last is not None
    prefix = eval_prefix(last.step, last.name, "mmlu", "abc")
    results = b'{"configs": {"mmlu": {}}, "results": {"mmlu": {"acc,none": 0.25, "acc_stderr,none": 0.125}}}'
    run.storage.put(f"{prefix}/results.json", results)
    digests = {"results.json": sha256_digest(results)}
    scores = (Score(metric="acc", value=0.25, stderr=0.125),)
    run.ledger.append(
        lambda _: Eval(step=last.step, checkpoint=last.name, task="mmlu", scores=scores, prefix=prefix, digests=digests)
    )
    prefix = analysis_prefix("memorization", "abc")
    run.storage.put(f"{prefix}/table.json", b"[]")
    run.ledger.append(
        lambda _: Analysis(name="memorization", prefix=prefix, digests={"table.json": sha256_digest(b"[]")})
    )


class MemoryStorage(Storage):
    """A store in memory that counts what it is asked and can be told to fail.

    `on_create`, where set, takes the place of a conditional create.
    """

    def __init__(self) -> None:
        self.uri = "memory://"
        self.options = StorageOptions()
        self.objects: dict[str, bytes] = {}
        self.on_create: Callable[[str, bytes], None] | None = None
        self.questions = 0
        self.gets = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        self.gets += 1
        if key not in self.objects:
            raise ObjectNotFoundError(f"{key} does not exist")
        return self.objects[key]

    def get_range(self, key: str, start: int, length: int) -> bytes:
        return self.get(key)[start : start + length]

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def create(self, key: str, data: bytes) -> None:
        if self.on_create is not None:
            self.on_create(key, data)
        else:
            self.create_now(key, data)

    def create_now(self, key: str, data: bytes) -> None:
        with self._lock:
            if key in self.objects:
                raise ObjectExistsError(f"{key} exists")
            self.objects[key] = data

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(self.objects[key]), 0.0)

    def stat(self, key: str) -> ObjectInfo:
        self.questions += 1
        if key not in self.objects:
            raise ObjectNotFoundError(f"{key} does not exist")
        return ObjectInfo(key, len(self.objects[key]), 0.0)

    def delete(self, key: str) -> None:
        self.objects.pop(key, None)

    def at(self, prefix: str) -> Storage:
        raise NotImplementedError

    def open_parts(self, key: str, size: int) -> Any:
        raise NotImplementedError

    def list_unfinished(self) -> Iterator[UnfinishedWrite]:
        return iter(())

    def delete_unfinished(self, write: UnfinishedWrite) -> None:
        raise NotImplementedError


@pytest.fixture
def memory() -> MemoryStorage:
    """An empty store in memory."""
    return MemoryStorage()


@pytest.fixture
def new_memory() -> type[MemoryStorage]:
    """Makes empty stores in memory."""
    return MemoryStorage


@pytest.fixture(scope="session")
def pristine_release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    """The release, built once; not to be changed."""
    folder = tmp_path_factory.mktemp("pristine")
    build_release(open_storage(str(folder)))
    return Release(folder)


@pytest.fixture
def release(pristine_release: Release, tmp_path: Path) -> Release:
    """A copy of the release, to tamper with."""
    shutil.copytree(pristine_release.folder, tmp_path / "release", symlinks=True)
    return Release(tmp_path / "release")


@pytest.fixture
def builder(tmp_path: Path) -> ReleaseBuilder:
    """A release in the making."""
    return ReleaseBuilder(open_storage(str(tmp_path / "run")))
