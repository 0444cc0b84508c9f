"""Takes a checkpoint of a running model: gathers it in the way of training, writes it behind the next steps.

    step n │ start(): gather to the owners, copy to host memory │ step n+1 │ step n+2 │ …
                                                      └─ thread: cast, hash, upload ─────▶ poll() -> RankPart

The thread reads host memory that the training never touches, so what is written is exactly step n.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

import torch
from torch import nn

from llm360.storage import Storage
from llm360_trainer.checkpoint.layout import INDEX_NAME, Rename, index_json, plan_groups, state_name
from llm360_trainer.checkpoint.parts import RankPart
from llm360_trainer.checkpoint.shards import gather_groups, parameters_by_name, world
from llm360_trainer.checkpoint.upload import Job, write_files

_NICENESS = 10

LOGGER = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes checkpoints of one rank; every rank has one and calls `start` at the same steps.

    At most one checkpoint is under way. Host memory for the groups that this rank owns (12 bytes per parameter,
    divided by the number of ranks) is taken at the first checkpoint and kept for the next.

    Args:
        storage: Rooted at the release.
        rename: From a parameter's name in the module to its Hugging Face name.
        model_dtype: Of the tensors in the model folder; the state is always fp32.
        model_files: Small files of the model folder by name (`config.json`, `tokenizer.json`, …), written by rank 0.
            Others may be set between two checkpoints, since a later stage may know more tokens.
        on_wait: Takes a sentence for a person when an upload waits for the store, and when it goes on.

    Raises:
        (from `start`, `poll` and `wait`) what stopped the writing behind: StorageError and its like, once each.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        rename: Rename,
        model_dtype: torch.dtype,
        model_files: Mapping[str, bytes],
        on_wait: Callable[[str], None] = LOGGER.warning,
    ) -> None:
        self._storage = storage
        self._rename = rename
        self._model_dtype = model_dtype
        self.model_files = model_files
        self._on_wait = on_wait
        self._host: dict[str, torch.Tensor] = {}
        self._writing: _Writing | None = None
        self._finished: list[RankPart] = []
        self._closed = threading.Event()

    def start(self, step: int, prefix: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        """Take a checkpoint of the present weights and moments; a collective of all ranks.

        Waits first for the checkpoint before, if that is still being written.

        Args:
            step: Finished optimizer steps.
            prefix: Where the files go, such as `checkpoints/step_000000762/a003`.
            model: Parameters are plain, or sharded over dim 0 by FSDP2 (with or without replicas).
            optimizer: AdamW whose moments exist, as `build_optimizer` makes it.

        Returns:
            Seconds for which training stood still, the waiting included.
        """
        begin = time.monotonic()
        self._collect(timeout=None)
        rank, world_size = world()
        parameters = parameters_by_name(model, self._rename)
        groups = plan_groups(parameters, world_size)
        gather_groups(groups, parameters, optimizer, self._host_tensor)
        small_files: dict[str, bytes] = {}
        if rank == 0:
            sizes = {name: p.numel() * self._model_dtype.itemsize for name, p in parameters.items()}
            small_files = {**self.model_files, INDEX_NAME: index_json(groups, sizes)}
        job = Job(
            step=step,
            prefix=prefix,
            storage=self._storage.at(prefix),
            rank=rank,
            world_size=world_size,
            groups=groups,
            host=self._host,
            model_dtype=self._model_dtype,
            small_files=small_files,
            on_wait=self._on_wait,
            closed=self._closed,
        )
        self._writing = _Writing(job)
        self._writing.start()
        return time.monotonic() - begin

    def poll(self) -> list[RankPart]:
        """This rank's parts of checkpoints that were written since the last call; does not wait."""
        self._collect(timeout=0.0)
        finished, self._finished = self._finished, []
        return finished

    def wait(self, timeout: float | None = None) -> list[RankPart]:
        """As `poll`, after waiting up to `timeout` seconds (None: as long as it takes) for what is under way."""
        self._collect(timeout)
        return self.poll()

    def close(self) -> None:
        """Give up waiting for a store that does not answer; what is under way stays uncommitted litter."""
        self._closed.set()

    def _collect(self, timeout: float | None) -> None:
        """Take over the result of the checkpoint under way, if it ends in time."""
        if self._writing is None:
            return
        self._writing.join(timeout)
        if self._writing.is_alive():
            return
        ended, self._writing = self._writing, None
        if ended.error is not None:
            raise ended.error
        assert ended.part is not None
        self._finished.append(ended.part)

    def _host_tensor(self, name: str, kind: str, parameter: nn.Parameter) -> torch.Tensor:
        """Host memory for one of a parameter's fp32 tensors; pinned where a GPU copies to it at full speed."""
        key = state_name(name, kind)
        tensor = self._host.get(key)
        if tensor is None:
            tensor = torch.empty(parameter.shape, dtype=torch.float32, pin_memory=parameter.is_cuda)
            self._host[key] = tensor
        return tensor


class _Writing(threading.Thread):
    """The writing of one job. A daemon: a store that is down must not keep the process alive."""

    def __init__(self, job: Job) -> None:
        super().__init__(name=f"checkpoint-{job.step}", daemon=True)
        self.part: RankPart | None = None
        self.error: Exception | None = None
        self._job = job

    def run(self) -> None:
        """Write, and keep the result or the failure for whoever asks."""
        if sys.platform == "linux":
            # There a thread has a priority of its own, which the uploads' threads inherit: training goes first.
            os.setpriority(os.PRIO_PROCESS, 0, min(os.getpriority(os.PRIO_PROCESS, 0) + _NICENESS, 19))
        try:
            self.part = write_files(self._job)
        except Exception as error:  # raised again by the writer's next call, in the training's thread
            self.error = error
