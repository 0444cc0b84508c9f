"""What workers need of Ray: refused where it can never come, told where it may."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from llm360.errors import InputError
from llm360_trainer.driver.resources import check_gpus, describe_waiting, local_cpus, rank_cpus, waiting_for_workers
from llm360_trainer.prepare.waiting import LOOK_SECONDS

CUDA = ("cluster.workers.device=cuda", "cluster.workers.gpus=4", "cluster.workers.replicas=2")


def test_a_machine_without_the_gpus_is_refused(make_run: Any) -> None:
    run = make_run(*CUDA)
    with pytest.raises(InputError) as caught:
        check_gpus(run, 0)
    assert "asks for 8 GPUs (cluster.workers: device cuda, 2 replicas of 4 GPUs), but this" in caught.value.message
    assert "has 0; train on CPUs with --set cluster.workers.device=cpu" in caught.value.message
    with pytest.raises(InputError, match=r"has 7; lower cluster\.workers\.replicas or cluster\.workers\.gpus, or"):
        check_gpus(run, 7)
    check_gpus(run, 8)
    check_gpus(make_run(), 0)


@pytest.mark.parametrize(
    ("fields", "of_rank", "of_machine"),
    [
        (("cluster.workers.cpus=1", "cluster.workers.replicas=1"), 1, 2),
        (("cluster.workers.cpus=0.5", "cluster.workers.replicas=6"), 1, 6),
        (("cluster.workers.cpus=3", "cluster.workers.replicas=2"), 3, 6),
        ((*CUDA, "cluster.workers.cpus=2"), 1, 8),
        ((*CUDA, "cluster.workers.cpus=12"), 3, 24),
    ],
)
def test_a_local_ray_has_a_place_for_every_rank(
    make_run: Any, fields: tuple[str, ...], of_rank: int, of_machine: int
) -> None:
    """Ranks share the cores of a machine that has fewer; one for which there was no place would never start."""
    run = make_run(*fields)
    assert rank_cpus(run) == of_rank
    assert local_cpus(run, cores=2) == of_machine


def test_what_is_waited_for_is_said(make_run: Any) -> None:
    sentence = describe_waiting(make_run(*CUDA, "cluster.workers.cpus=8"), 30.2, {"CPU": 16.0}, {"CPU": 12.0})
    assert sentence.startswith(
        "waiting for 30 s for 8 workers with 1 GPU and 2 CPUs each; the cluster has 0 GPUs (0 free), 16 CPUs (12 free)"
    )


def test_waiting_is_said_now_and_then_and_only_while_it_lasts(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", dict)
    monkeypatch.setattr(ray, "available_resources", dict)
    now, asked, said = 0.0, [], []

    def is_waiting() -> bool:
        asked.append(now)
        return not 150 <= now < 160

    waiting = waiting_for_workers(
        make_run(), lambda text: said.append((now, text[:18])), is_waiting=is_waiting, clock=lambda: now
    )
    while now < 200:
        waiting.look()
        now += 0.5
    assert said == [(30, "waiting for 30 s f"), (90, "waiting for 90 s f"), (190, "waiting for 30 s f")]
    assert len(asked) == 200 / LOOK_SECONDS
