"""A small run that was truly trained, in this process: data, ledger, and a checkpoint after each chunk."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from llm360.data.held_out import HeldOut
from llm360.data.manifest import DataManifest, load_manifest
from llm360.data.order import StageOrder
from llm360.data.rows import read_rows
from llm360.release.create import create_release
from llm360.release.entries import Stage
from llm360.release.layout import checkpoint_prefix, manifest_key
from llm360.release.metrics import StepRecord, write_segment
from llm360.release.writer import TrainingWriter
from llm360.spec import load_run
from llm360.storage import Storage, open_storage
from llm360_trainer.checkpoint.parts import merge_parts
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import Decoder, hf_config, initial_tensor, to_hf_name
from llm360_trainer.optim import OptimizerSettings, build_optimizer
from llm360_trainer.parallel import fill
from llm360_trainer.prepare.inputs import parse_source
from llm360_trainer.prepare.pipeline import prepare
from llm360_trainer.prepare.runner import InProcess
from llm360_trainer.prepare.settings import PrepareSettings
from llm360_trainer.prepare.tokenize import train_tokenizer
from llm360_trainer.train.settings import decoder_config

SIZES = {
    "vocabSize": 300, "hiddenSize": 32, "intermediateSize": 44, "numLayers": 2, "numHeads": 4,
    "maxPositionEmbeddings": 64,
}  # fmt: skip
BATCH_ROWS, NUM_CHUNKS, CHUNK_ROWS = 8, 3, 50
SOURCES = {"colours": "red green blue white black", "numbers": "one two three four five six"}


@dataclass(frozen=True)
class TrainedRelease:
    """Where it lies, and what it was made of."""

    storage: Storage
    manifest: DataManifest
    texts: dict[str, Path]

    @property
    def uri(self) -> str:
        return self.storage.uri.removeprefix("file://")


def write_texts(folder: Path) -> dict[str, Path]:
    """A file of lines for each source: words of its own that follow each other by a rule."""
    paths = {}
    for name, words in SOURCES.items():
        ring = words.split()
        lines = [" ".join(ring[(n + i * (1 + n % 2)) % len(ring)] for i in range(4 + n % 29)) for n in range(700)]
        paths[name] = folder / f"{name}.txt"
        paths[name].write_text("".join(f"{line} {n}\n" for n, line in enumerate(lines)))
    return paths


HELD_OUT = HeldOut(Fraction(1, 10), 5)


def trained_release(folder: Path, *, held_out: HeldOut | None = HELD_OUT) -> TrainedRelease:
    """Prepare, train one pass over the chunks, publish a checkpoint before the first and after each."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = write_texts(folder)
    tokenizer = train_tokenizer([path.read_text() for path in texts.values()], 300)
    storage = open_storage(str(folder / "release"))
    settings = PrepareSettings(
        sources=tuple(parse_source(f"{name}={path}:1") for name, path in texts.items()),
        tokenizer=tokenizer,
        sequence_length=64,
        chunks=NUM_CHUNKS,
        max_rows=NUM_CHUNKS * CHUNK_ROWS,
        seed=3,
        held_out=held_out,
    )
    prepare(settings, storage.at("data/stage1"), session=lambda: contextlib.nullcontext(InProcess()))
    manifest, digest = load_manifest(storage.at("data/stage1"))
    fields = [f"model.{name}={json.dumps(value)}" for name, value in SIZES.items()]
    run = load_run(
        "amber-tiny",
        ["training.sequenceLength=64", f"training.batchSize={BATCH_ROWS}", "parallelism.microBatch=8", *fields],
        store=str(folder / "release"),
    )
    config = decoder_config(run.spec.model)
    model = Decoder(config)
    fill(model, lambda name, shape: initial_tensor(name, shape, config, 3))
    optimizer = build_optimizer(model, OptimizerSettings())
    writer = TrainingWriter(create_release(storage, run.identity()))
    writer.claim(world_size=1, device="cpu", operations={}, environment={})
    order = StageOrder(manifest.chunk_rows, BATCH_ROWS, "drop")
    step_tokens = BATCH_ROWS * manifest.predictions
    stage = Stage(
        attempt=1, step=0, tokens=0, stage=0, name="stage1", num_steps=order.num_steps, data="data/stage1",
        chunk_rows=manifest.chunk_rows, batch_rows=BATCH_ROWS, remainder="drop", predictions=manifest.predictions,
        digests={"manifest": digest},
    )  # fmt: skip
    writer.stage(stage)
    files = {"config.json": json.dumps(hf_config(config, "float32", manifest.tokenizer.eos_id)).encode()}
    files |= {"tokenizer.json": tokenizer}
    saver = CheckpointWriter(storage, rename=to_hf_name, model_dtype=torch.float32, model_files=files)

    def save(step: int, label: str) -> None:
        prefix = checkpoint_prefix(step, 1)
        saver.start(step, prefix, model, optimizer)
        made = merge_parts(
            saver.wait(60), tokens=step * step_tokens, attempt=1, config_digest=writer.history().config_digest
        )
        storage.put(manifest_key(prefix), made.encode())
        writer.checkpoint(made, labels=(label,), published=True)

    save(0, "init")
    learner = torch.optim.AdamW(model.parameters(), lr=0.02)
    records = []
    for step in range(1, order.num_steps + 1):
        loss = _train(model, learner, storage.at("data/stage1"), manifest, order, step - 1)
        records.append(_record(step, loss, step * step_tokens))
        if order.is_chunk_end(step):
            first = step - len(records) + 1
            writer.metrics(first, step, step * step_tokens, write_segment(records))
            records = []
            save(step, f"ckpt_{order.finished_chunks(step) - 1:03d}")
    saver.close()
    writer.complete()
    return TrainedRelease(storage, manifest, texts)


def _train(model: Decoder, learner: torch.optim.Optimizer, data: Storage, manifest, order, step: int) -> float:
    parts = [read_rows(data, manifest, *span).ids for span in order.step_rows(step)]
    ids = torch.from_numpy(np.concatenate(parts).astype(np.int64))
    for _ in range(3):  # so that a few steps are felt
        total, losses = model.loss(ids[:, :-1], ids[:, 1:], torch.ones(len(ids), ids.shape[1] - 1))
        learner.zero_grad()
        (total / losses.numel()).backward()
        learner.step()
    return float(losses.mean())


def _record(step: int, loss: float, tokens: int) -> StepRecord:
    return StepRecord(
        step=step, attempt=1, stage=0, time=datetime(2026, 1, 1, 0, step, tzinfo=UTC), tokens=tokens, loss=loss,
        learning_rate=0.02, grad_norm=1.0, step_seconds=1.0, tokens_per_second=1.0,
    )  # fmt: skip
