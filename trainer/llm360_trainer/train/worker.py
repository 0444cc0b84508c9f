"""One rank between its start and its end: set up, then attempts until the run ends or has to stop."""

from __future__ import annotations

import json
import math
import platform
import socket
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist

from llm360.errors import InputError, IntegrityError, LLM360Error
from llm360.spec import ResolvedRun, resolved_from_json
from llm360.storage import NowhereStorage, open_storage
from llm360_trainer.checkpoint.loader import load_state
from llm360_trainer.checkpoint.weights import imported_values
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import DecoderConfig, hf_config, to_hf_name
from llm360_trainer.optim import build_optimizer
from llm360_trainer.parallel import build_model, fill, fill_initial, make_mesh, set_deterministic
from llm360_trainer.step import TrainStep
from llm360_trainer.train.entry import WorkerInput
from llm360_trainer.train.loop import LeaveLoop, Loop, reset_moments
from llm360_trainer.train.plan import AttemptPlan, Command, GroupInfo, Recorder, StagePlan
from llm360_trainer.train.settings import (
    DTYPES,
    decoder_config,
    end_of_document,
    optimizer_settings,
    parallel_settings,
)


class Worker:
    """A rank between its start and its end.

    Args:
        given: From the driver.
        recorder: The driver's recorder.
    """

    def __init__(self, given: WorkerInput, recorder: Recorder) -> None:
        self.run_spec: ResolvedRun = resolved_from_json(given.run_json)
        self.given = given
        self.recorder = recorder
        self.rank = dist.get_rank()
        self.world = dist.get_world_size()
        self.device = rank_device(self.run_spec)
        if self.run_spec.spec.training.deterministic:
            set_deterministic(given.num_threads)
        elif given.num_threads is not None:
            torch.set_num_threads(given.num_threads)
        self.storage = open_storage(given.store, given.options)

    def run(self) -> None:
        """Claim an attempt, build, load, train; again after a rewind; commit the end."""
        group = self._describe_group()
        plan = self._agree(lambda: self.recorder.begin_attempt(group))
        if plan is None:
            return
        loop = self._build_loop()
        while plan is not None:
            plan = self._load(plan, loop)
            if plan is not None:
                plan = self._run_attempt(plan, loop)

    def _run_attempt(self, plan: AttemptPlan, loop: Loop) -> AttemptPlan | None:
        """Train by the plan; the plan to go on with after a rewind, None at the end or where the ranks must stop."""
        try:
            loop.run_attempt(plan)
        except LeaveLoop as left:
            if left.command is Command.STOP:
                return None
            step, problem = left.step, left.problem
            for part in loop.writer.wait():
                self.recorder.checkpoint_part(part)
            dist.barrier()
            if left.command is Command.REWIND:
                return self._agree(lambda: self.recorder.rewind(step, problem))
            if self.rank == 0:
                self.recorder.stopped(step + 1)
            return None
        dist.barrier()
        if self.rank == 0:
            self.recorder.finish()
        dist.barrier()
        return None

    def _agree(self, ask: Callable[[], AttemptPlan | None]) -> AttemptPlan | None:
        """Rank 0 asks the recorder; every rank gets its answer.

        Raises:
            LLM360Error: on all ranks; the plan is one for another attempt.
        """
        answer: list[AttemptPlan | None] = [ask() if self.rank == 0 else None]
        dist.broadcast_object_list(answer, src=0, device=self.device)
        refuse_own_steps(answer[0])
        return answer[0]

    def _describe_group(self) -> GroupInfo:
        ranks: list[dict[str, Any]] = [{}] * self.world
        dist.all_gather_object(ranks, describe_rank(self.device))
        return GroupInfo(ranks=tuple(ranks), libraries=libraries())

    def _load(self, plan: AttemptPlan, loop: Loop) -> AttemptPlan | None:
        """Set the model to the plan's start; where a checkpoint does not verify, to the one before it."""
        while plan.resume is not None:
            try:
                load_state(
                    self.storage,
                    plan.resume.prefix,
                    plan.resume.manifest,
                    loop.model,
                    loop.optimizer,
                    rename=to_hf_name,
                )
            except IntegrityError as error:
                refused, problem = plan.resume.name, error.message
                next_plan = self._agree(lambda: self.recorder.fall_back(refused, problem))  # noqa: B023
                if next_plan is None:
                    return None
                plan = next_plan
                continue
            return plan
        weights = self.run_spec.spec.model.weights
        if weights is None:
            fill_initial(loop.model, self.run_spec.spec.training.seed)
        else:
            fill(loop.model, imported_values(weights, self.given.options, to_hf_name))
        reset_moments(loop.optimizer)
        return plan

    def _build_loop(self) -> Loop:
        spec = self.run_spec.spec
        config = decoder_config(spec.model)
        mesh = make_mesh(
            self.world,
            "cuda" if self.device.type == "cuda" else "cpu",
            spec.parallelism.shard,
            spec.parallelism.replicas,
        )
        rows = max(math.ceil(stage.order.batch_rows / self.world) for stage in self.given.stages)
        settings = parallel_settings(
            self.run_spec,
            self.device,
            micro_batch=min(spec.parallelism.micro_batch, rows),
            length=spec.training.sequence_length,
        )
        if self.rank == 0 and self.device.type == "cuda" and spec.parallelism.attention == "auto":
            self.recorder.event(f"attention runs with {settings.attention}")
        model = build_model(config, settings, mesh)
        optimizer = build_optimizer(model, optimizer_settings(self.run_spec))
        files = {stage.index: model_files(config, spec.checkpoints.dtype, stage) for stage in self.given.stages}
        return Loop(
            run=self.run_spec,
            stages=self.given.stages,
            rank=self.rank,
            world=self.world,
            config=config,
            model=model,
            optimizer=optimizer,
            step_of={
                stage.index: TrainStep(
                    model,
                    optimizer,
                    mesh,
                    batch_rows=stage.order.batch_rows,
                    micro_batch=spec.parallelism.micro_batch,
                    num_sources=len(stage.manifest.sources),
                    max_grad_norm=spec.training.gradient_clip,
                    end_of_document=end_of_document(self.run_spec, stage.manifest),
                    reduce_each=spec.parallelism.reduce_gradients == "each",
                    keep_gathered=not spec.parallelism.reshard_after_forward,
                )
                for stage in self.given.stages
            },
            model_files=files,
            writer=CheckpointWriter(
                self.storage if self.given.keeps_checkpoints else NowhereStorage(self.given.options),
                rename=to_hf_name,
                model_dtype=DTYPES[spec.checkpoints.dtype],
                model_files=files[0],
                on_wait=self.recorder.event,
            ),
            recorder=self.recorder,
            options=self.given.options,
            device=self.device,
        )


def refuse_own_steps(plan: AttemptPlan | None) -> None:
    """Have Ray Train start the group again where a plan leads to a checkpoint that this attempt has written already.

    Raises:
        LLM360Error: it does; the attempt after this one begins where the plan does.
    """
    if plan is not None and plan.needs_new_attempt:
        raise LLM360Error(
            f"attempt {plan.attempt} falls back to step {plan.first_step}, before a checkpoint that it has committed"
            " itself; a new attempt goes on from there",
            reason="CheckpointRefused",
        )


def rank_device(run: ResolvedRun) -> torch.device:
    """The device that Ray Train gave to this rank.

    Raises:
        InputError: the specification asks for CUDA and there is none.
    """
    if run.spec.cluster.workers.device == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError(
            "spec.cluster.workers.device is 'cuda', but torch finds no GPU on this worker;"
            " set it to 'cpu', or run where there are GPUs",
            reason="NoGPU",
        )
    device: torch.device = ray.train.torch.get_device()
    torch.cuda.set_device(device)
    return device


def model_files(config: DecoderConfig, dtype: str, stage: StagePlan) -> dict[str, bytes]:
    """The small files that make the model folder a Hugging Face folder."""
    eos_id = stage.manifest.tokenizer.eos_id
    files = {"config.json": json.dumps(hf_config(config, dtype, eos_id), indent=2, sort_keys=True).encode() + b"\n"}
    if stage.tokenizer is not None:
        files["tokenizer.json"] = stage.tokenizer
    return files


def describe_rank(device: torch.device) -> dict[str, Any]:
    """What this rank computes on."""
    return {
        "host": socket.gethostname(),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def libraries() -> dict[str, str]:
    """The libraries that decide the bits."""
    found = {"torch": torch.__version__, "ray": ray.__version__}
    if torch.cuda.is_available():
        found["cuda"] = str(torch.version.cuda)
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
        found["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return found
