"""Ranks that find no room are waited for; ranks that fail to start are counted by who called."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray.train
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from llm360_trainer.driver import fit as module


@pytest.fixture
def given() -> Any:
    said: list[str] = []
    event = SimpleNamespace(remote=said.append)
    return SimpleNamespace(recorder=SimpleNamespace(event=event), said=said)


def test_a_group_without_room_is_waited_for_and_said(
    make_run: Any, given: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [ray.train.ControllerError(WorkerGroupStartupTimeoutError(2)) for _ in range(3)]

    def train(*_: Any) -> None:
        if ends:
            raise ends.pop()

    monkeypatch.setattr(module, "_fit", train)
    module.fit(make_run("cluster.workers.replicas=2"), given)
    assert given.said == ["no room for 2 workers yet; waiting for it"] * 3


@pytest.mark.parametrize(
    "error", [ray.train.ControllerError(WorkerGroupStartupFailedError("a rank died")), ValueError("no luck")]
)
def test_all_else_is_told_to_the_caller(
    make_run: Any, given: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def train(*_: Any) -> None:
        raise error

    monkeypatch.setattr(module, "_fit", train)
    with pytest.raises(type(error)):
        module.fit(make_run(), given)
    assert given.said == []
