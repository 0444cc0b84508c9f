"""Names of published checkpoints for people: `init`, `ckpt_000` after chunk 0, `stage2-0007`, `step-1000`."""

from __future__ import annotations

from collections.abc import Sequence

from llm360.spec import ResolvedRun
from llm360_trainer.train.plan import StagePlan


def checkpoint_labels(stages: Sequence[StagePlan], run: ResolvedRun, stage: StagePlan, step: int) -> tuple[str, ...]:
    """The labels of the checkpoint after `step` finished steps of the run, which the schedule publishes.

    A run of one stage counts data chunks as Amber did: `ckpt_k` follows chunk k. A run of several counts each
    stage's checkpoints from 1. Other steps are named by their number.

    Args:
        stages: All stages of the run.
        run: The specification.
        stage: The stage of the checkpoint's last step.
        step: Finished steps of the run.
    """
    if step == 0:
        return ("init",)
    stage_step = step - stage.first_step
    if len(stages) > 1:
        checkpoints = run.spec.checkpoints
        count = sum(stage.publishes(checkpoints, s) for s in range(stage.first_step + 1, step + 1))
        return (f"{run.stages[stage.index].name}-{count:04d}",)
    if stage.order.is_chunk_end(stage_step):
        return (f"ckpt_{stage.order.chunk_of(stage_step - 1):03d}",)
    return (f"step-{step}",)
