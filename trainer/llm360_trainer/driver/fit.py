"""Ray Train around the ranks. Importing it imports torch, which launch.py does while Ray's other processes start."""

from __future__ import annotations

import tempfile
from typing import Any

import ray.train
import ray.train.torch

from llm360.spec import ResolvedRun
from llm360_trainer.driver.messages import describe_error
from llm360_trainer.driver.resources import rank_cpus
from llm360_trainer.train.entry import WorkerInput, train_worker


class ReportFailures(ray.train.UserCallback):  # type: ignore[misc]
    """Runs in Ray Train's controller and tells the recorder of every group of which a rank has failed or died.

    Args:
        recorder: Handle of the recorder's actor.
    """

    def __init__(self, recorder: Any) -> None:
        self._recorder = recorder

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Tell it without waiting: the next group starts meanwhile."""
        rank, error = min(worker_exceptions.items())
        self._recorder.group_failed.remote(f"rank {rank}: {describe_error(error)}")


def fit(run: ResolvedRun, given: WorkerInput) -> None:
    """Start the ranks, and start them again whenever one fails, until all leave as if they were done.

    Args:
        run: The specification.
        given: What every rank gets.
    """
    workers = run.spec.cluster.workers
    with tempfile.TemporaryDirectory(prefix="llm360-ray-train-") as folder:
        ray.train.torch.TorchTrainer(
            train_worker,
            train_loop_config={"input": given},
            scaling_config=ray.train.ScalingConfig(
                num_workers=run.spec.cluster.world_size,
                use_gpu=workers.device == "cuda",
                resources_per_worker={"CPU": rank_cpus(run)},
            ),
            # The recorder counts attempts and ends the run; Ray Train only starts groups again.
            run_config=ray.train.RunConfig(
                name=run.name,
                storage_path=folder,
                failure_config=ray.train.FailureConfig(max_failures=-1),
                callbacks=[ReportFailures(given.recorder)],
            ),
            torch_config=ray.train.torch.TorchConfig(backend="nccl" if workers.device == "cuda" else "gloo"),
        ).fit()
