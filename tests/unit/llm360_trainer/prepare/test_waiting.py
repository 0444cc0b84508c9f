"""A preparation on a cluster without a free processor says what it waits for."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from llm360_trainer.prepare import runner
from llm360_trainer.prepare.runner import RayData
from llm360_trainer.prepare.waiting import Waiting, wait_for_processor


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A Ray that has a place for a task after a number of looks, each of which takes so many seconds."""
    state: dict[str, Any] = {"there": {}, "free": {}, "looks": 0, "now": 0.0, "seconds": 10.0, "probes": 0}

    class Task:
        def remote(self) -> str:
            state["probes"] += 1
            return "probe"

    def wait(probes: list[str], timeout: float) -> tuple[list[str], list[str]]:
        state["now"] += state["seconds"]
        state["looks"] -= 1
        return (probes, []) if state["looks"] <= 0 else ([], probes)

    monkeypatch.setattr(ray, "cluster_resources", lambda: state["there"])
    monkeypatch.setattr(ray, "available_resources", lambda: state["free"])
    monkeypatch.setattr(ray, "remote", lambda **_: lambda _: Task())
    monkeypatch.setattr(ray, "wait", wait)
    # `time.monotonic` itself is Python's own: only the clock that `Waiting` starts with is another.
    monkeypatch.setitem(Waiting.__init__.__kwdefaults__, "clock", lambda: state["now"])
    return state


def test_it_says_so_after_a_while_and_again_until_there_is_one(cluster: dict[str, Any]) -> None:
    cluster |= {"there": {"CPU": 4.0}, "looks": 13}
    said: list[str] = []
    wait_for_processor(said.append)
    assert [text.split(";")[0] for text in said] == [
        "waiting for 30 s for a free CPU",
        "waiting for 90 s for a free CPU",
    ]
    assert "the cluster has 4 CPUs (0 free); the preparation goes on when nodes join" in said[0]


def test_where_one_is_free_nothing_is_tried_or_said(cluster: dict[str, Any]) -> None:
    cluster["free"] = {"CPU": 1.0}
    wait_for_processor(pytest.fail)
    assert cluster["probes"] == 0


def test_every_pass_waits_before_it_gives_out_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(say: Any) -> None:
        say("waiting")
        raise InterruptedError

    said: list[str] = []
    monkeypatch.setattr(runner, "wait_for_processor", wait)
    with pytest.raises(InterruptedError):
        RayData(said.append).map(str, [1])
    with pytest.raises(InterruptedError):
        RayData(said.append).expand(list, str, [[1]])
    assert said == ["waiting", "waiting"]
