"""One optimizer step over all ranks: the same batch gives the same update whoever shares it.

    pad to equal micro steps ─ count real tokens of all ranks ─ forward, backward per micro step
      └─ gradients are summed over ranks in the last micro step only, or in each
    one small all-reduce: squared gradient norm, loss and tokens by source, the caller's flags
      └─ all finite?  clip, set learning rate, update  ·  else nothing has changed

The loss is the sum over the real tokens of all ranks divided by their number. A rank that has a row less than
another computes a row of weight 0 in its place.

Shape suffixes: R rows of a rank, L tokens of a row, T = L − 1 predictions, S sources.
"""
# ruff: noqa: N803, N806, N815 (names end in a tensor's shape)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.profiler import record_function

from llm360_trainer.model import Decoder, documents_of
from llm360_trainer.optim import set_finished_steps, set_learning_rate

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True)
class StepResult:
    """What a step did, the same on every rank."""

    finite: bool
    """False: loss or gradient held an infinity or NaN, and neither weights nor optimizer were touched."""
    loss_sum: float
    """Cross entropy in nats, summed over the real tokens of all ranks."""
    tokens: int
    """Real tokens: predictions whose loss counts."""
    source_loss_sums: tuple[float, ...]
    source_tokens: tuple[int, ...]
    grad_norm: float
    """2-norm of the whole gradient before clipping."""
    flags: tuple[float, ...]
    """The caller's flags, each summed over ranks."""

    @property
    def loss(self) -> float:
        """Mean cross entropy per real token, nats."""
        return self.loss_sum / max(self.tokens, 1)


@dataclass(frozen=True)
class _Batch:
    ids_RL: Tensor  # int64
    mask_RT: Tensor  # fp32, 0 or 1
    source_RS: Tensor  # fp64, one-hot


class TrainStep:
    """Runs optimizer steps; holds nothing that a checkpoint would need.

    Args:
        model: From `build_model`, filled.
        optimizer: From `build_optimizer`.
        mesh: The mesh that the model is sharded over.
        batch_rows: Sequences of a step, all ranks together.
        micro_batch: Most sequences of one forward and backward on a rank.
        num_sources: Number of data sources.
        max_grad_norm: The gradient's norm is clipped to it; None: never.
        end_of_document: The token id that ends a document, where no position may see another document than its own;
            None: a row is one document.
        reduce_each: Sum gradients over ranks in every micro step: more traffic, but no rank ever holds a whole
            gradient.
        keep_gathered: Gather weights once, in the first micro step, and free them in the last one's backward; of use
            where the model was built without `reshard_after_forward`.

    Raises:
        ValueError: A batch or micro batch below 1.
    """

    def __init__(
        self,
        model: Decoder,
        optimizer: torch.optim.Optimizer,
        mesh: DeviceMesh,
        *,
        batch_rows: int,
        micro_batch: int,
        num_sources: int,
        max_grad_norm: float | None = 1.0,
        end_of_document: int | None = None,
        reduce_each: bool = False,
        keep_gathered: bool = False,
    ) -> None:
        if batch_rows < 1 or micro_batch < 1:
            raise ValueError(f"batch_rows ({batch_rows}) and micro_batch ({micro_batch}) must be at least 1")
        self.model = model
        self.optimizer = optimizer
        self.micro_batch = micro_batch
        self.num_sources = num_sources
        self.max_grad_norm = max_grad_norm
        self.end_of_document = end_of_document
        self.reduce_each = reduce_each
        self.keep_gathered = keep_gathered
        self.rank_rows = math.ceil(batch_rows / mesh.size())
        """Rows that every rank computes, rows of weight 0 included."""
        self._replicas = mesh.size() // mesh["shard"].size()
        self._parameters = list(model.parameters())
        self._device = self._parameters[0].device

    def __call__(
        self,
        ids: Integers,
        loss_mask: Integers | None,
        source: Integers,
        *,
        finished_steps: int,
        learning_rate: float,
        flags: Sequence[float] = (),
    ) -> StepResult:
        """Run the step; every rank must call it with the same keyword arguments but for the flags' values.

        Args:
            ids: [rows, L] token ids of this rank's rows, any integer dtype; at most `rank_rows` rows, possibly none.
            loss_mask: [rows, T] 0 or 1 per prediction; None: all count.
            source: [rows] index of each row's source.
            finished_steps: Optimizer steps that lie behind, for AdamW's bias correction.
            learning_rate: Of this update.
            flags: Numbers to be summed over ranks on the way (a wish to stop, say), as many on every rank.

        Raises:
            ValueError: More rows than `rank_rows`, shapes that do not fit, or a source out of range.
        """
        batch = self._pad(ids, loss_mask, source)
        loss_sums_R = self._forward_backward(batch)
        with record_function("llm360::reduce"):
            grad_norm, source_loss, source_tokens, summed_flags = self._reduce(batch, loss_sums_R, flags)
        loss_sum = math.fsum(source_loss)
        finite = math.isfinite(loss_sum) and math.isfinite(grad_norm)
        if finite:
            with record_function("llm360::update"):
                self._update(grad_norm, finished_steps, learning_rate)
        self.optimizer.zero_grad(set_to_none=True)
        tokens = [round(count) for count in source_tokens]
        return StepResult(
            finite=finite,
            loss_sum=loss_sum,
            tokens=sum(tokens),
            source_loss_sums=tuple(source_loss),
            source_tokens=tuple(tokens),
            grad_norm=grad_norm,
            flags=tuple(summed_flags),
        )

    def _pad(
        self,
        ids: Integers,
        loss_mask: Integers | None,
        source: Integers,
    ) -> _Batch:
        rows, row_tokens = ids.shape
        if rows > self.rank_rows or len(source) != rows:
            raise ValueError(
                f"{rows} rows and {len(source)} sources; a rank's step takes at most {self.rank_rows} rows"
            )
        if loss_mask is not None and loss_mask.shape != (rows, row_tokens - 1):
            raise ValueError(f"loss_mask has the shape {loss_mask.shape}; {(rows, row_tokens - 1)} is needed")
        if rows and source.max() >= self.num_sources:
            raise ValueError(f"a row names source {source.max()}, but there are {self.num_sources}")
        padded_ids = np.zeros((self.rank_rows, row_tokens), dtype=np.int64)
        padded_ids[:rows] = ids
        mask = np.zeros((self.rank_rows, row_tokens - 1), dtype=np.float32)
        mask[:rows] = 1.0 if loss_mask is None else loss_mask
        one_hot = np.zeros((self.rank_rows, self.num_sources), dtype=np.float64)
        one_hot[np.arange(rows), source] = 1.0
        return _Batch(*(torch.from_numpy(array).to(self._device) for array in (padded_ids, mask, one_hot)))

    def _forward_backward(self, batch: _Batch) -> Tensor:
        """Leave the gradient of the global mean loss in the parameters; return each row's loss sum, fp64 [R]."""
        tokens = batch.mask_RT.sum(dtype=torch.float64)
        dist.all_reduce(tokens)
        weights_RT = batch.mask_RT / tokens.clamp(min=1.0).float()
        loss_sums_R = torch.empty(self.rank_rows, dtype=torch.float64, device=self._device)
        for start in range(0, self.rank_rows, self.micro_batch):
            micro = slice(start, start + self.micro_batch)
            self._prepare_micro_step(start + self.micro_batch >= self.rank_rows)
            ids_RL = batch.ids_RL[micro]
            inputs_RT = ids_RL[:, :-1]
            documents_RT = None if self.end_of_document is None else documents_of(inputs_RT, self.end_of_document)
            total, losses_RT = self.model.loss(inputs_RT, ids_RL[:, 1:], weights_RT[micro], documents_RT)
            torch.autograd.backward(total)
            loss_sums_R[micro] = (losses_RT * batch.mask_RT[micro]).sum(dim=1, dtype=torch.float64)
        return loss_sums_R

    def _prepare_micro_step(self, is_last: bool) -> None:
        assert isinstance(self.model, FSDPModule), "the model comes from build_model"
        self.model.set_requires_gradient_sync(is_last or self.reduce_each)
        self.model.set_is_last_backward(is_last)
        self.model.set_reshard_after_backward(is_last or not self.keep_gathered)

    def _reduce(
        self, batch: _Batch, loss_sums_R: Tensor, flags: Sequence[float]
    ) -> tuple[float, list[float], list[float], list[float]]:
        """Global gradient norm, loss and tokens by source, and flags, in one sum over ranks."""
        local_norm = torch.nn.utils.get_total_norm(self._local_gradients()).double()
        by_source_2S = torch.stack([loss_sums_R, batch.mask_RT.sum(dim=1, dtype=torch.float64)]) @ batch.source_RS
        numbers = torch.cat(
            [
                # Replicas hold the same shards of the reduced gradient.
                (local_norm**2 / self._replicas).reshape(1),
                by_source_2S.flatten(),
                torch.tensor(flags, dtype=torch.float64, device=self._device),
            ]
        )
        dist.all_reduce(numbers)
        squared_norm, *rest = numbers.tolist()
        count = self.num_sources
        return math.sqrt(squared_norm), rest[:count], rest[count : 2 * count], rest[2 * count :]

    def _update(self, grad_norm: float, finished_steps: int, learning_rate: float) -> None:
        if self.max_grad_norm is not None and grad_norm > self.max_grad_norm:
            torch._foreach_mul_(self._local_gradients(), self.max_grad_norm / grad_norm)
        set_learning_rate(self.optimizer, learning_rate)
        set_finished_steps(self.optimizer, finished_steps)
        self.optimizer.step()

    def _local_gradients(self) -> list[Tensor]:
        gradients = (parameter.grad for parameter in self._parameters)
        return [g.to_local() if isinstance(g, DTensor) else g for g in gradients if g is not None]
