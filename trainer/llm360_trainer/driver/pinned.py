"""Stages as the ledger pins them; apart from stages.py, so that the recorder starts without preparation's imports."""

from __future__ import annotations

from collections.abc import Sequence

from llm360.release.entries import Stage, StageDigests
from llm360.release.history import History
from llm360.release.writer import check_stage
from llm360.spec import ResolvedRun
from llm360_trainer.train.plan import StagePlan


def check_pinned(run: ResolvedRun, history: History, plans: Sequence[StagePlan]) -> None:
    """Compare the stages with those that the run began with.

    Raises:
        InputError: reason DataChanged: the data or its order is another; names what differs.
    """
    for pinned in history.stages:
        check_stage(pinned, stage_entry(run, plans[pinned.stage], pinned.attempt))


def stage_entry(run: ResolvedRun, plan: StagePlan, attempt: int) -> Stage:
    """The ledger's entry that pins a stage."""
    return Stage(
        attempt=attempt,
        step=plan.first_step,
        tokens=plan.first_tokens,
        stage=plan.index,
        name=run.stages[plan.index].name,
        num_steps=plan.num_steps,
        data=plan.data_uri.removeprefix(run.store + "/"),
        chunk_rows=plan.order.chunk_rows,
        batch_rows=plan.order.batch_rows,
        remainder=plan.order.remainder,
        predictions=plan.manifest.predictions,
        digests=StageDigests(manifest=plan.manifest_digest),
    )
