"""Where preparation runs."""

from __future__ import annotations

from typing import Any

import pytest
import ray

from llm360_trainer.prepare.runner import ray_session


class InitCalledError(Exception):
    """Ends the session before Ray starts."""


def test_without_an_address_a_ray_of_its_own_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray alone would join the cluster that was last started on this machine, even one that is gone."""
    asked: dict[str, Any] = {}

    def init(**options: Any) -> None:
        asked.update(options)
        raise InitCalledError

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # an earlier test's Ray may still be there
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InitCalledError), ray_session(None, 2):
        pass
    assert asked["address"] == "local"
    assert asked["num_cpus"] == 2
