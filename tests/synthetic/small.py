"""A release of one checkpoint: the first values of a small decoder, and a tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from llm360.release.checkpoint import CheckpointManifest
from llm360.release.create import create_release, open_release
from llm360.release.layout import checkpoint_prefix, manifest_key
from llm360.release.writer import TrainingWriter
from llm360.spec import ResolvedRun, load_run
from llm360.storage import Storage, open_storage
from llm360_trainer.checkpoint.parts import merge_parts
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import Decoder, hf_config, initial_tensor, to_hf_name
from llm360_trainer.optim import OptimizerSettings, build_optimizer
from llm360_trainer.parallel import fill
from llm360_trainer.prepare.tokenize import END_OF_TEXT, train_tokenizer
from llm360_trainer.train.settings import DTYPES, decoder_config

SIZES = {
    "vocabSize": 300, "hiddenSize": 32, "intermediateSize": 44, "numLayers": 2, "numHeads": 4,
    "maxPositionEmbeddings": 64,
}  # fmt: skip


@dataclass(frozen=True)
class SmallRelease:
    """A release and the model whose weights its one checkpoint holds."""

    run: ResolvedRun
    storage: Storage
    model: Decoder
    manifest: CheckpointManifest

    @property
    def folder(self) -> Path:
        return Path(self.storage.uri.removeprefix("file://"))


@cache
def small_tokenizer() -> bytes:
    """A tokenizer.json of 280 tokens."""
    return train_tokenizer(["export and import again", "weights come and go"], 280)


def small_release(folder: Path, preset: str, *overrides: str, tokenizer: bytes | None = None) -> SmallRelease:
    """A release of a preset's architecture with small sizes."""
    tokenizer = tokenizer or small_tokenizer()
    fields = [f"model.{name}={json.dumps(value)}" for name, value in SIZES.items()]
    run = load_run(preset, ["training.sequenceLength=64", *fields, *overrides], store=str(folder / "release"))
    config, storage = decoder_config(run.spec.model), open_storage(run.store)
    model = Decoder(config)
    fill(model, lambda name, shape: initial_tensor(name, shape, config, 3))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim == 1:  # norms and biases are moved off 1 and 0 so that each one matters
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    writer = TrainingWriter(create_release(storage, run.identity()))
    writer.claim(world_size=1, device="cpu", operations={}, environment={})
    dtype = run.spec.checkpoints.dtype
    files = {"config.json": json.dumps(hf_config(config, dtype, eos_id(tokenizer))).encode()}
    checkpoints = CheckpointWriter(
        storage, rename=to_hf_name, model_dtype=DTYPES[dtype], model_files=files | {"tokenizer.json": tokenizer}
    )
    prefix = checkpoint_prefix(0, writer.attempt)
    checkpoints.start(0, prefix, model, build_optimizer(model, OptimizerSettings()))
    digest = open_release(storage).history().config_digest
    manifest = merge_parts(checkpoints.wait(60), tokens=0, attempt=writer.attempt, config_digest=digest)
    storage.put(manifest_key(prefix), manifest.encode())
    writer.checkpoint(manifest, labels=("init",), published=True)
    return SmallRelease(run, storage, model, manifest)


def eos_id(tokenizer: bytes) -> int:
    words = {token["content"]: token["id"] for token in json.loads(tokenizer)["added_tokens"]}
    return words[END_OF_TEXT]
