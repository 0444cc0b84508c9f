"""One rank of a gloo group that does what a JSON script says: fill, save, load, train and show a tiny decoder.

python rank.py SCRIPT RANK WORLD     (SCRIPT: see `conftest.run_ranks`)
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from llm360.errors import LLM360Error
from llm360.release.checkpoint import CheckpointManifest
from llm360.storage import open_storage
from llm360_trainer.checkpoint.loader import load_state
from llm360_trainer.checkpoint.parts import merge_parts
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import Decoder, DecoderConfig, to_hf_name
from llm360_trainer.optim import OptimizerSettings, build_optimizer, set_learning_rate
from llm360_trainer.parallel import ParallelSettings, build_model, fill, make_mesh

KINDS = ("exp_avg", "exp_avg_sq")


def serve(rank: int) -> None:
    """Play one script after another; each line of input is a script's path, each line of output an answer to it."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        try:
            play(Path(line.strip()), rank)
        except BaseException:
            print(json.dumps(traceback.format_exc()), flush=True)
            raise
        print(json.dumps(""), flush=True)


def play(script_path: Path, rank: int) -> None:
    script = json.loads(script_path.read_text())
    os.environ.update(script["environment"])
    store = dist.FileStore(str(script_path.parent / "rendezvous"), script["world"])
    dist.init_process_group("gloo", store=store, rank=rank, world_size=script["world"])
    state = State(script, rank, script["world"])
    for action in script["actions"]:
        getattr(state, action.pop("do"))(**action)
    dist.barrier()
    dist.destroy_process_group()


@dataclass
class State:
    """The model under test; every method is an action of the script."""

    script: dict[str, Any]
    rank: int
    world: int
    model: Decoder = field(init=False)
    optimizer: torch.optim.AdamW = field(init=False)

    def __post_init__(self) -> None:
        self.storage = open_storage(self.script["uri"])
        self.out = Path(self.script["out"])
        self.config = DecoderConfig(**self.script["config"])
        self.build()

    def build(self) -> None:
        """A fresh model whose every value is wrong."""
        shard_size = self.script.get("shard_size")
        mesh = make_mesh(self.world, "cpu", "hybrid" if shard_size else "full", shard_size)
        self.model = build_model(self.config, ParallelSettings(), mesh)
        fill(self.model, lambda _, shape: torch.full(shape, -7.0))
        self.optimizer = build_optimizer(self.model, OptimizerSettings())

    def fill(self, seed: int) -> None:
        """Values that depend on the names and the seed alone."""
        fill(self.model, lambda name, shape: values_of(f"{seed} {name} master", shape))
        for name, parameter in self.model.named_parameters():
            for kind in KINDS:
                full = values_of(f"{seed} {name} {kind}", tuple(parameter.shape)).abs()
                assert isinstance(parameter, DTensor)
                shard = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
                self.optimizer.state[parameter][kind].copy_(shard)

    def train(self, steps: int) -> None:
        """A few updates on fixed ids, each rank with its own."""
        set_learning_rate(self.optimizer, 1e-2)
        ids = torch.arange(8).reshape(1, 8) + self.rank
        for _ in range(steps):
            self.optimizer.zero_grad()
            self.model(ids).float().square().mean().backward()
            self.optimizer.step()

    def evaluate(self) -> None:
        """A forward pass without a backward, after which FSDP2 still holds the root's parameters whole."""
        with torch.no_grad():
            self.model(torch.arange(8).reshape(1, 8))

    def save(self, prefix: str, step: int, dtype: str = "float32") -> None:
        """Write a checkpoint; rank 0 merges the parts as the driver would."""
        writer = CheckpointWriter(
            self.storage,
            rename=to_hf_name,
            model_dtype=getattr(torch, dtype),
            model_files={name: text.encode() for name, text in self.script["model_files"].items()},
        )
        writer.start(step, prefix, self.model, self.optimizer)
        parts: list[Any] = [None] * self.world
        dist.all_gather_object(parts, writer.wait(timeout=120))
        if self.rank == 0:
            manifest = merge_parts([p for part in parts for p in part], tokens=0, attempt=1, config_digest=digest("c"))
            self.storage.put(f"{prefix}/manifest.json", manifest.encode())
        dist.barrier()

    def load(self, prefix: str, error: str | None = None) -> None:
        """Read a checkpoint into the model; a failure is written to `error`'s file, per rank."""
        manifest = CheckpointManifest.decode(self.storage.get(f"{prefix}/manifest.json"), prefix)
        try:
            load_state(self.storage, prefix, manifest, self.model, self.optimizer, rename=to_hf_name)
        except LLM360Error as failure:
            if error is None:
                raise
            (self.out / f"{error}-{self.rank}").write_text(f"{type(failure).__name__}: {failure.message}")

    def show(self, name: str) -> None:
        """All full tensors and step counts into `name.safetensors`."""
        tensors = {}
        for parameter_name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            tensors |= {f"{parameter_name}.{kind}": whole(state[kind]) for kind in KINDS}
            tensors |= {f"{parameter_name}.master": whole(parameter), f"{parameter_name}.step": state["step"]}
        if self.rank == 0:
            save_file({key: tensor.contiguous().clone() for key, tensor in tensors.items()}, self.out / name)
        dist.barrier()


def whole(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def digest(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def values_of(label: str, shape: tuple[int, ...]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "little")
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


if __name__ == "__main__":
    serve(int(sys.argv[1]))
