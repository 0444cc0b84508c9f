"""A complete release without any training: every entry and object in its place, numbers made up by a formula."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from llm360.canonical import canonical_json, sha256_digest
from llm360.data.manifest import DataManifest
from llm360.data.order import StageOrder
from llm360.release.checkpoint import CheckpointManifest, FileRecord, TensorRecord, tensors_digest
from llm360.release.entries import (
    Attempt,
    Checkpoint,
    Complete,
    DataSpan,
    EntryDraft,
    Eval,
    Fallback,
    Genesis,
    Metrics,
    Prune,
    Rewind,
    Skip,
    Stage,
)
from llm360.release.entry import Entry
from llm360.release.layout import checkpoint_prefix, config_key, environment_key, eval_prefix, metrics_key
from llm360.release.metrics import StepRecord, write_segment
from llm360.storage import Storage

BEGIN = datetime(2026, 1, 2, 3, 0, 0, tzinfo=UTC)
ROW_TOKENS = 129
SOURCES = ("docs", "code")


@dataclass
class SyntheticRelease:
    """Writes a release entry by entry; `now` advances by the seconds of each step."""

    storage: Storage
    num_chunks: int = 8
    chunk_steps: int = 50
    batch_rows: int = 16
    step_seconds: float = 0.3
    now: datetime = BEGIN
    entries: list[Entry] = field(default_factory=list)
    attempt: int = 0
    step: int = 0
    environment: str = ""
    config: str = ""
    manifest: str = ""

    @property
    def total_steps(self) -> int:
        return self.num_chunks * self.chunk_steps

    @property
    def order(self) -> StageOrder:
        rows = self.chunk_steps * self.batch_rows + 3
        return StageOrder(chunk_rows=(rows,) * self.num_chunks, batch_rows=self.batch_rows, remainder="drop")

    def tokens(self, step: int) -> int:
        return step * self.batch_rows * (ROW_TOKENS - 1)

    def append(self, body: EntryDraft) -> Entry:
        prev = self.entries[-1].name if self.entries else None
        self.now += timedelta(milliseconds=20)
        seq = len(self.entries)
        entry = Entry(seq, prev, f"{seq:032x}", self.now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"), body)
        self.storage.create(entry.key, entry.data)
        self.entries.append(entry)
        return entry

    def begin(self) -> None:
        config = {
            "preset": "amber-tiny",
            "model": {"hiddenSize": 128, "numLayers": 4, "vocabSize": 4096},
            "data": {"stages": [{"name": "stage1"}]},
            "training": {"sequenceLength": ROW_TOKENS - 1, "batchSize": self.batch_rows, "steps": None, "seed": 7},
            "storage": {"uri": self.storage.uri},
        }
        data = canonical_json(config)
        self.config = sha256_digest(data)
        self.storage.put(config_key(self.config), data)
        self.append(Genesis(digests={"config": self.config}))

    def write_data(self) -> str:
        rows = self.order.chunk_rows
        shard = {"rows": rows[0], "bytes": 1000, "sha256": "sha256:" + "a" * 64}
        manifest = DataManifest(
            row_tokens=ROW_TOKENS,
            labels="next_token",
            dtype="uint16",
            has_loss_mask=False,
            sources=[
                {"name": name, "weight": 1.0, "documents": 40, "tokens": 10**6, "rows": part, "dropped_tokens": 77}
                for name, part in zip(SOURCES, (sum(rows) // 3, sum(rows) - sum(rows) // 3), strict=True)
            ],
            chunks=[{"rows": n, "shards": [{"key": f"chunk_{i:03d}/0.parquet", **shard}]} for i, n in enumerate(rows)],
            tokenizer={"key": None, "digest": "sha256:" + "b" * 64, "vocab_size": 4096, "eos_id": 0},
            shuffle="global",
            seed=7,
            unigram_entropy=6.1,
            recipe={"name": "synthetic"},
        )
        self.storage.put("data/stage1/manifest.json", manifest.to_bytes())
        return sha256_digest(manifest.to_bytes())

    def claim(self, checkpoint: Entry | None = None) -> None:
        self.now += timedelta(seconds=5)
        self.attempt += 1
        self.step = checkpoint.body.step if checkpoint else 0
        environment = canonical_json(
            {
                "format": "llm360-environment/1",
                "attempt": self.attempt,
                "code": {"version": "0.1.0", "commit": "c0ffee" * 6, "modified": False, "source_digest": "sha256:5"},
                "image": "unpinned",
                "python": "3.11.2",
                "platform": "Linux-6.1-x86_64",
                "packages": {"numpy": "2.3.0", "torch": "2.10.0"},
                "libraries": {"torch": "2.10.0", "cuda": "none"},
                "world_size": 2,
                "ranks": [{"host": f"node-{i}", "device": "cpu", "threads": 1} for i in range(2)],
                "operations": {},
            }
        )
        self.environment = sha256_digest(environment)
        self.storage.put(environment_key(self.attempt), environment)
        self.append(
            Attempt(
                attempt=self.attempt,
                step=self.step,
                tokens=self.tokens(self.step),
                checkpoint=checkpoint.name if checkpoint else None,
                world_size=2,
                device="cpu",
                operations={},
            )
        )

    def pin_stage(self) -> None:
        self.manifest = self.write_data()
        self.append(
            Stage(
                attempt=self.attempt,
                step=0,
                tokens=0,
                stage=0,
                name="stage1",
                num_steps=self.total_steps,
                data="data/stage1",
                chunk_rows=self.order.chunk_rows,
                batch_rows=self.batch_rows,
                remainder="drop",
                predictions=ROW_TOKENS - 1,
                digests={"manifest": self.manifest},
            )
        )

    def record(self, step: int) -> StepRecord:
        rng = np.random.default_rng([step, self.attempt])
        base = 3.1 + 5.2 * math.exp(-step / (self.total_steps / 8))
        losses = {
            name: base + shift + 0.08 * rng.standard_normal() for name, shift in zip(SOURCES, (0.35, -0.2), strict=True)
        }
        tokens = self.batch_rows * (ROW_TOKENS - 1)
        docs = int(tokens * (0.33 + 0.05 * rng.standard_normal()))
        shares = {"docs": docs, "code": tokens - docs}
        seconds = self.step_seconds * (1 + 0.1 * rng.random()) + (0.4 if step % self.chunk_steps == 1 else 0.0)
        warmup = min(1.0, step / (0.05 * self.total_steps))
        return StepRecord(
            step=step,
            attempt=self.attempt,
            stage=0,
            time=self.now,
            tokens=self.tokens(step),
            loss=sum(losses[name] * shares[name] for name in SOURCES) / tokens,
            source_loss=losses,
            source_tokens=shares,
            learning_rate=1e-3 * warmup * (0.55 + 0.45 * math.cos(math.pi * step / self.total_steps)),
            grad_norm=0.8 + 2 * math.exp(-step / 40) + 0.1 * rng.random(),
            step_seconds=seconds,
            tokens_per_second=tokens / seconds,
            data_wait_seconds=0.001,
            checkpoint_stall_seconds=0.03 if step % self.chunk_steps == 1 else 0.0,
            memory_bytes=900 * 2**20,
        )

    def train(self, steps: int, **changes: object) -> Entry:
        """Make `steps` steps and commit their records."""
        records = []
        first = self.step + 1
        for _ in range(steps):
            self.step += 1
            record = self.record(self.step)
            self.now += timedelta(seconds=record.step_seconds)
            records.append(record)
        if changes:
            records[-1] = StepRecord(**{name: getattr(records[-1], name) for name in StepRecord.__slots__} | changes)
        data = write_segment(records)
        key = metrics_key(self.attempt, first, self.step, sha256_digest(data))
        self.storage.put(key, data)
        return self.append(
            Metrics(
                attempt=self.attempt,
                step=self.step,
                tokens=self.tokens(self.step),
                first_step=first,
                key=key,
                bytes=len(data),
                digests={"segment": sha256_digest(data), "environment": self.environment},
            )
        )

    def checkpoint(self, label: str | None, previous: Entry | None, metrics: list[Entry]) -> Entry:
        prefix = checkpoint_prefix(self.step, self.attempt)
        files, tensors = [], {}
        for folder in ("model", "state"):
            values = np.full(16, self.step + len(folder), dtype="<f4").tobytes()
            header = json.dumps({"w": {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}}).encode()
            blob = len(header).to_bytes(8, "little") + header + values
            self.storage.put(f"{prefix}/{folder}/w.safetensors", blob)
            file = f"{folder}/w.safetensors"
            files.append(FileRecord(key=file, bytes=len(blob), sha256=sha256_digest(blob)))
            tensors[folder] = (
                TensorRecord(name="w", file=file, dtype="F32", shape=(16,), sha256=sha256_digest(values)),
            )
        manifest = CheckpointManifest(
            step=self.step,
            tokens=self.tokens(self.step),
            attempt=self.attempt,
            world_size=2,
            config_digest=self.config,
            files=tuple(files),
            model=tensors["model"],
            state=tensors["state"],
            model_digest=tensors_digest(tensors["model"]),
            state_digest=tensors_digest(tensors["state"]),
        )
        self.storage.put(f"{prefix}/manifest.json", manifest.encode())
        first = previous.body.step if previous else 0
        ranges = self.order.rows_between(first, self.step) if self.step > first else []
        span = (
            DataSpan(
                stage=0,
                manifest=self.manifest,
                first_step=first,
                last_step=self.step - 1,
                rows=[tuple(r) for r in ranges],
            )
            if ranges
            else None
        )
        return self.append(
            Checkpoint(
                attempt=self.attempt,
                step=self.step,
                tokens=self.tokens(self.step),
                prefix=prefix,
                labels=(label,) if label else (),
                published=label is not None,
                chunk=self.step // self.chunk_steps - 1 if self.step and self.step % self.chunk_steps == 0 else None,
                stage=0 if self.step else None,
                bytes=manifest.total_bytes,
                previous=previous.name if previous else None,
                data=(span,) if span else (),
                metrics=tuple(entry.name for entry in metrics),
                digests={
                    "config": self.config,
                    "environment": self.environment,
                    "manifest": sha256_digest(manifest.encode()),
                    "model": manifest.model_digest,
                    "state": manifest.state_digest,
                },
            )
        )

    def go_back(self, kind: type[Rewind] | type[Fallback], checkpoint: Entry, reason: str, **facts: object) -> None:
        self.step = step = checkpoint.body.step
        self.append(
            kind(
                attempt=self.attempt,
                step=step,
                tokens=self.tokens(step),
                checkpoint=checkpoint.name,
                reason=reason,
                **facts,
            )
        )

    def chunk(self, number: int, previous: Entry) -> Entry:
        """Train a whole chunk and commit its checkpoint."""
        metrics = self.train(self.chunk_steps)
        return self.checkpoint(f"ckpt_{number:03d}", previous, [metrics])

    def complete(self, last: Entry) -> None:
        digests = {"config": self.config, "model": last.body.digests.model, "state": last.body.digests.state}
        self.append(
            Complete(
                attempt=self.attempt,
                step=self.step,
                tokens=self.tokens(self.step),
                checkpoint=last.name,
                digests=digests,
            )
        )


def begin_release(storage: Storage, **sizes: int) -> tuple[SyntheticRelease, Entry]:
    """A run whose first attempt has committed the initial checkpoint."""
    run = SyntheticRelease(storage, **sizes)
    run.begin()
    run.claim()
    run.pin_stage()
    return run, run.checkpoint("init", None, [])


def eventful_release(storage: Storage, **sizes: int) -> SyntheticRelease:
    """A complete run that was killed, lost a checkpoint's bytes, met a NaN, and was pruned."""
    run, init = begin_release(storage, **sizes)
    first = run.chunk(0, init)
    second = run.chunk(1, first)
    run.train(run.chunk_steps * 3 // 5)  # killed here
    run.claim(second)
    run.go_back(
        Fallback, first, "state/w.safetensors has another digest than its manifest names", refused=[second.name]
    )
    second = run.chunk(1, first)
    third = run.chunk(2, second)
    run.train(run.chunk_steps // 2, loss=math.nan, skipped=True)
    bad = run.step
    run.append(
        Skip(attempt=run.attempt, step=bad, tokens=run.tokens(bad), stage=0, steps=[bad - 1], reason="the loss is NaN")
    )
    run.go_back(Rewind, third, "the loss is NaN", from_step=bad)
    run.claim(third)
    last = third
    for number in range(3, run.num_chunks):
        last = run.chunk(number, last)
    run.complete(last)
    run.append(Prune(step=first.body.step, checkpoint=first.name, parts=["state"], reason="<b>space</b> & order"))
    prefix, results = eval_prefix(last.body.step, last.name, "arc_easy", "0" * 32), b'{"acc":0.25}'
    run.storage.put(f"{prefix}/results.json", results)
    digests = {"results.json": sha256_digest(results)}
    run.append(Eval(step=last.body.step, checkpoint=last.name, task="arc_easy", prefix=prefix, digests=digests))
    return run


def interrupted_release(storage: Storage, **sizes: int) -> SyntheticRelease:
    """A run of one attempt, two chunks and a few steps beyond."""
    run, init = begin_release(storage, **sizes)
    second = run.chunk(1, run.chunk(0, init))
    assert second
    run.train(10)
    return run
