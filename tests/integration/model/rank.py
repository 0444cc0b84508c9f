"""One process of a group that trains a tiny decoder in several ways; `test_worlds.py` starts it.

    rank.py RANK WORLD FOLDER EXPERIMENT…

Rank 0 writes what each experiment gave to FOLDER/<experiment>.json.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from llm360.spec.training import Schedule
from llm360_trainer.model import DecoderConfig
from llm360_trainer.optim import OptimizerSettings, build_optimizer
from llm360_trainer.parallel import ParallelSettings, build_model, fill_initial, make_mesh, set_deterministic
from llm360_trainer.step import TrainStep

CONFIG = DecoderConfig(
    vocab_size=67, hidden_size=24, intermediate_size=40, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=12
)
BATCH_ROWS, TOKENS, STEPS, SOURCES = 7, 16, 100, 2
SCHEDULE = Schedule(kind="cosine", peakLearningRate=3e-3, endLearningRate=3e-4, warmupSteps=10)


class Training:
    """A model, its optimizer and its step, from the first values on."""

    def __init__(self, micro_batch=4, config=CONFIG, precision=torch.float32, **mesh):
        world = dist.get_world_size()
        self.mesh = make_mesh(world, **mesh)
        self.model = build_model(config, ParallelSettings(param_dtype=precision), self.mesh)
        fill_initial(self.model, seed=11)
        self.optimizer = build_optimizer(self.model, OptimizerSettings())
        self.step = TrainStep(
            self.model,
            self.optimizer,
            self.mesh,
            batch_rows=BATCH_ROWS,
            micro_batch=micro_batch,
            num_sources=SOURCES,
        )
        self.results = []

    def run(self, first=0, last=STEPS, masked=False):
        """Train steps [first, last) on this rank's share of each batch."""
        rank, world = dist.get_rank(), dist.get_world_size()
        share, longer = divmod(BATCH_ROWS, world)
        start = rank * share + min(rank, longer)
        mine = slice(start, start + share + (rank < longer))
        for step in range(first, last):
            ids, mask, source = batch(step)
            self.results.append(
                self.step(
                    ids[mine],
                    mask[mine] if masked else None,
                    source[mine],
                    finished_steps=step,
                    learning_rate=SCHEDULE.rate(step, STEPS),
                    flags=[float(rank)],
                )
            )
        return self

    def record(self):
        """What is compared: numbers as they are, so that JSON keeps every bit."""
        return {
            "losses": [result.loss for result in self.results],
            "grad_norms": [result.grad_norm for result in self.results],
            "source_losses": [result.source_loss_sums for result in self.results],
            "source_tokens": [result.source_tokens for result in self.results],
            "flags": [result.flags for result in self.results],
            "finite": [result.finite for result in self.results],
            "checksum": sum(p.full_tensor().double().abs().sum().item() for p in self.model.parameters()),
        }

    def shards(self):
        """This rank's part of weights and moments."""
        return [
            tensor.to_local()
            for parameter in self.model.parameters()
            for tensor in (parameter, *(self.optimizer.state[parameter][key] for key in ("exp_avg", "exp_avg_sq")))
        ]


def batch(step):
    """A batch that a bigram model can learn, the same for every world."""
    generator = np.random.default_rng(step)
    starts = generator.integers(0, CONFIG.vocab_size, (BATCH_ROWS, 1))
    strides = generator.integers(1, 4, (BATCH_ROWS, 1))
    ids = (starts + strides * np.arange(TOKENS + 1)) % CONFIG.vocab_size
    mask = (generator.random((BATCH_ROWS, TOKENS)) < 0.7).astype(np.uint8)
    return ids.astype(np.uint16), mask, generator.integers(0, SOURCES, BATCH_ROWS).astype(np.uint16)


def restarted():
    """Train a while, take the shards over into a new model, and go on."""
    before = Training().run(last=20)
    after = Training()
    with torch.no_grad():
        for new, old in zip(after.shards(), before.shards(), strict=True):
            new.copy_(old)
    after.results = before.results
    return after.run(first=20, last=40)


def poisoned():
    """The last rank alone meets a value that is not finite; all must leave step 3 out."""
    training = Training().run(last=3)
    norm = training.model.norm
    is_last = dist.get_rank() == dist.get_world_size() - 1
    handle = norm.register_forward_hook(lambda _module, _inputs, output: output * float("nan")) if is_last else None
    training.run(first=3, last=4)
    if handle is not None:
        handle.remove()
    return training.run(first=4, last=6)


EXPERIMENTS = {
    "plain": lambda: Training().run(),
    "short": lambda: Training().run(last=40),
    "restarted": restarted,
    "micro": lambda: Training(micro_batch=1).run(last=40),
    "masked": lambda: Training().run(last=20, masked=True),
    "hybrid": lambda: Training(shard="hybrid", replicas=2).run(last=40),
    "bf16": lambda: Training(precision=torch.bfloat16).run(last=20),
    "poisoned": poisoned,
}


def main():
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    set_deterministic(num_threads=1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=world)
    for name in sys.argv[4:]:
        record = EXPERIMENTS[name]().record()
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps(record))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
