"""A small plain model with an optimizer, and stores that are slow or fail."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from llm360.storage import StorageOptions
from llm360.storage.file import FileStorage
from llm360.storage.transfer import PartWriter
from llm360_trainer.model import Decoder, DecoderConfig
from llm360_trainer.optim import OptimizerSettings, build_optimizer


@dataclass
class Training:
    """A decoder without a process group, and its optimizer; both hold values drawn from a seed."""

    model: Decoder
    optimizer: torch.optim.AdamW

    def scramble(self, seed: int) -> None:
        """Give weights and moments other values."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.model.parameters():
                state = self.optimizer.state[parameter]
                for tensor in (parameter, state["exp_avg"], state["exp_avg_sq"]):
                    tensor.copy_(torch.randn(tensor.shape, generator=generator))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Copies of all weights and moments."""
        found = {}
        for name, parameter in self.model.named_parameters():
            state = self.optimizer.state[parameter]
            found |= {f"{name}.{kind}": state[kind].clone() for kind in ("exp_avg", "exp_avg_sq", "step")}
            found[f"{name}.master"] = parameter.detach().clone()
        return found


@pytest.fixture
def training() -> Training:
    config = DecoderConfig(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=12,
        num_layers=2,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        max_position_embeddings=16,
    )
    model = Decoder(config)
    training = Training(model, build_optimizer(model, OptimizerSettings()))
    training.scramble(0)
    return training


class TroubledStorage(FileStorage):
    """A folder whose uploads wait for `open` to be set and then raise what `failures` holds, one after another."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, StorageOptions())
        self.open = threading.Event()
        self.failures: list[Exception] = []

    def at(self, prefix: str) -> FileStorage:
        inner = TroubledStorage(self.root / prefix)
        inner.open, inner.failures = self.open, self.failures
        return inner

    def open_parts(self, key: str, size: int) -> PartWriter:
        assert self.open.wait(60)
        if self.failures:
            raise self.failures.pop(0)
        return super().open_parts(key, size)


@pytest.fixture
def troubled_storage(tmp_path: Path) -> Callable[[], TroubledStorage]:
    return lambda: TroubledStorage(tmp_path / "store")
