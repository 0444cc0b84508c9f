"""What a rank does behind the training's steps: its groups' tensors from host memory to the store."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from llm360.canonical import sha256_digest
from llm360.errors import LLM360Error
from llm360.release.checkpoint import FileRecord, TensorRecord
from llm360.storage import Storage, wait_until_available
from llm360_trainer.checkpoint.layout import MODEL_FOLDER, STATE_KINDS, Group, state_name
from llm360_trainer.checkpoint.parts import RankPart
from llm360_trainer.checkpoint.tensorfile import DTYPE_NAMES, upload_tensors

T = TypeVar("T")


@dataclass(frozen=True)
class Job:
    """One rank's share of one checkpoint, gathered and ready to be written.

    Args:
        step: Finished optimizer steps.
        prefix: The checkpoint's folder.
        storage: Rooted at the checkpoint's prefix.
        rank: This rank.
        world_size: Number of ranks.
        groups: All groups of the model; those that this rank owns are in `host`.
        host: fp32 CPU tensors by state name (`<parameter>.master`, `.exp_avg`, `.exp_avg_sq`).
        model_dtype: Of the model folder's tensors.
        small_files: The model folder's other files by name; empty on all ranks but 0.
        on_wait: Takes a sentence for a person when the store does not answer, and when it does again.
        closed: Set when nobody wants the checkpoint any more.
    """

    step: int
    prefix: str
    storage: Storage
    rank: int
    world_size: int
    groups: Sequence[Group]
    host: Mapping[str, torch.Tensor]
    model_dtype: torch.dtype
    small_files: Mapping[str, bytes]
    on_wait: Callable[[str], None]
    closed: threading.Event


def write_files(job: Job) -> RankPart:
    """Write all files of a job, one after another (each upload carries several parts at a time).

    A store that does not answer is waited for; other failures are raised.
    """
    begin = time.monotonic()
    files: list[FileRecord] = []
    model: list[TensorRecord] = []
    state: list[TensorRecord] = []
    for name, data in sorted(job.small_files.items()):
        key = f"{MODEL_FOLDER}/{name}"
        _patiently(job, key, partial(job.storage.put, key, data))
        files.append(FileRecord(key=key, bytes=len(data), sha256=sha256_digest(data)))
    owned = [group for group in job.groups if group.owner == job.rank]
    for group in owned:
        weights = {name: job.host[state_name(name, "master")] for name in group.names}
        moments = {key: job.host[key] for name in group.names for key in (state_name(name, k) for k in STATE_KINDS)}
        for key, tensors, dtype, records in (
            (group.model_file, weights, job.model_dtype, model),
            (group.state_file, moments, torch.float32, state),
        ):
            sent = _patiently(job, key, partial(upload_tensors, job.storage, key, tensors, dtype))
            files.append(FileRecord(key=key, bytes=sent.bytes, sha256=sent.sha256))
            records.extend(
                TensorRecord(name=name, file=key, dtype=DTYPE_NAMES[dtype], shape=tuple(tensor.shape), sha256=digest)
                for (name, tensor), digest in zip(tensors.items(), sent.tensors.values(), strict=True)
            )
    return RankPart(
        step=job.step,
        prefix=job.prefix,
        rank=job.rank,
        world_size=job.world_size,
        expected=tuple(group.label for group in job.groups),
        groups=tuple(group.label for group in owned),
        files=tuple(files),
        model=tuple(model),
        state=tuple(state),
        seconds=time.monotonic() - begin,
    )


def _patiently(job: Job, key: str, send: Callable[[], T]) -> T:
    """Send until the store answers; every send begins anew, and nothing half-written is ever visible."""

    def pause(seconds: float) -> None:
        if job.closed.wait(seconds):
            raise LLM360Error(
                f"the checkpoint of step {job.step} was given up while it waited for the store",
                reason="CheckpointAbandoned",
            )

    return wait_until_available(
        send,
        say=lambda what: job.on_wait(f"checkpoint of step {job.step}, {key}: {what}; training goes on"),
        sleep=pause,
    )
