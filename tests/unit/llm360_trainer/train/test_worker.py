"""How the ranks take the recorder's answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from llm360.errors import LLM360Error
from llm360_trainer.train.plan import AttemptPlan
from llm360_trainer.train.worker import Worker


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> Iterator[None]:
    """A process group of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def agree(plan: AttemptPlan | None) -> AttemptPlan | None:
    worker = SimpleNamespace(rank=0, device=torch.device("cpu"))
    return Worker._agree(worker, lambda: plan)  # type: ignore[arg-type]


@pytest.mark.parametrize("plan", [None, AttemptPlan(1, None, frozenset())])
def test_a_plan_is_the_same_on_all_ranks(plan: AttemptPlan | None) -> None:
    assert agree(plan) == plan


def test_a_plan_for_another_attempt_fails_this_one() -> None:
    with pytest.raises(LLM360Error, match="attempt 3 falls back to step 0, before a checkpoint that it has") as raised:
        agree(AttemptPlan(3, None, frozenset(), needs_new_attempt=True))
    assert (raised.value.exit_code, raised.value.reason) == (1, "CheckpointRefused"), "Ray Train starts the group again"
