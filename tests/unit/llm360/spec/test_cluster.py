"""Ranks and durations."""

import pytest

from llm360.spec import load_run


@pytest.mark.parametrize(("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("45s", 45), ("2h", 7200), ("0s", 0)])
def test_duration(text, seconds):
    run = load_run("amber-tiny", [f"cluster.keepOnFailure={text}"], require_store=False)
    assert run.spec.cluster.keep_on_failure_seconds == seconds


def test_a_rank_per_gpu_or_per_cpu_pod():
    assert load_run("amber-tiny", require_store=False).spec.cluster.world_size == 2
    assert load_run("amber-7b", require_store=False).spec.cluster.world_size == 56 * 4
