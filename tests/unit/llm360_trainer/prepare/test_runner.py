"""Where preparation runs."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import ray

from llm360.errors import InputError, LLM360Error
from llm360_trainer.prepare import runner
from llm360_trainer.prepare.runner import ray_session


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray is asked for; it fails, having taken SIGTERM as the real one does."""
    options: dict[str, Any] = {}

    def init(**given: Any) -> None:
        options.update(given)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise ValueError("Unable to parse port number\n")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # an earlier test's Ray may still be there
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return options


def test_without_an_address_a_ray_of_its_own_is_started(asked: dict[str, Any]) -> None:
    """Ray alone would join the cluster that was last started on this machine, even one that is gone."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(LLM360Error, match="Ray did not start on this machine: Unable to parse port number; see"):
        ray_session(None, 2).__enter__()
    assert asked["address"] == "local"
    assert asked["num_cpus"] == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_ray_says_of_an_address_is_one_sentence(asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"'127\.0\.0\.1:1' that lets us in: .*Connection refused"):
        ray_session("127.0.0.1:1").__enter__()
    assert not asked, "Ray would try for minutes"
    monkeypatch.setattr(runner, "check_reachable", lambda _: None)
    with pytest.raises(InputError, match=r"'127\.0\.0\.1:1' that lets us in: Unable to parse port number; if"):
        ray_session("127.0.0.1:1").__enter__()
    assert asked["address"] == "127.0.0.1:1"
    assert "num_cpus" not in asked
