"""What a real run serves to Prometheus in the middle of its training."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llm360.monitoring.catalogue import DRIVER
from llm360.release.create import open_release
from llm360.release.metrics import run_table
from llm360.storage import open_storage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="session")
def served(undisturbed: Any) -> dict[str, list[Any]]:
    """Samples of each family that has any, by the name that queries write."""
    families = text_string_to_metric_families(undisturbed.metrics)
    return {f.name + ("_total" if f.type == "counter" else ""): f.samples for f in families if f.samples}


def test_every_metric_of_the_catalogue_is_there(served: Any) -> None:
    assert set(served) == {metric.name for metric in DRIVER} - {"llm360_mfu_ratio"}  # no peak of a CPU is known


def test_all_name_the_run_and_workers_their_rank(served: Any) -> None:
    assert {sample.labels["run"] for samples in served.values() for sample in samples} == {"tiny"}
    for metric in DRIVER:
        if "rank" in metric.labels:
            assert {sample.labels["rank"] for sample in served[metric.name]} == {"0", "1"}, metric.name


def test_a_record_s_memory_is_that_of_the_worker_that_used_most(undisturbed: Any, served: Any) -> None:
    storage = open_storage(str(undisturbed.store))
    memory = run_table(storage, open_release(storage).history())["memory_bytes"].to_pylist()
    assert memory == sorted(memory), "a peak never falls"
    assert memory[-1] >= max(sample.value for sample in served["llm360_worker_memory_bytes"])
