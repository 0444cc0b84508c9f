"""The catalogue keeps Prometheus' conventions, and its labels stay bounded."""

import re

import pytest

from llm360.monitoring.catalogue import CATALOGUE, DRIVER, STEPS, metric
from llm360.monitoring.collectors import Collectors
from llm360.release.metrics import SCHEMA

BOUNDED = {
    "run", "namespace", "attempt", "source", "reason", "task", "metric", "rank", "phase", "state", "verb", "kind",
    "code",
}  # fmt: skip


def test_names_are_unique_and_say_kind_and_unit():
    names = [each.name for each in CATALOGUE]
    assert len(set(names)) == len(names)
    for each in CATALOGUE:
        assert re.fullmatch(r"llm360_[a-z]+(_[a-z]+)*", each.name)
        assert (each.kind == "counter") == each.name.endswith("_total"), each.name
        assert each.help.endswith("."), each.name
        assert bool(each.buckets) == (each.kind == "histogram"), each.name
        if each.kind == "histogram":
            assert each.name.endswith("_seconds")


def test_labels_are_bounded_and_rank_is_on_workers_series_alone():
    for each in CATALOGUE:
        assert set(each.labels) <= BOUNDED, each.name
        assert ("rank" in each.labels) == each.name.startswith(
            "llm360_worker_"
        ) or each.name == "llm360_worker_seconds_total"
    assert all(each.labels[0] == "run" for each in DRIVER)


def test_every_column_of_a_record_has_its_metric(step_record):
    """All that a record holds can be watched; time, stage, attempt and `skipped` show by other means."""
    said = set()
    for name in SCHEMA.names:
        changed = step_record(**{name: {"docs": 77} if name.startswith("source") else 77})
        said |= {name for each in STEPS if each.of(changed) != each.of(step_record())}
    assert set(SCHEMA.names) - said == {"attempt", "stage", "time", "tokens", "skipped"}


def test_a_step_counts_as_nonfinite_only_where_it_was_computed(step_record):
    of = metric("llm360_nonfinite_total").of
    nan = float("nan")
    assert of(step_record()) == 0
    assert of(step_record(loss=nan)) == of(step_record(grad_norm=float("inf"))) == 1
    assert of(step_record(loss=nan, grad_norm=nan, source_tokens={}, skipped=True)) == 0


def test_counters_and_histograms_of_one_series_are_there_from_the_start():
    collectors = Collectors(DRIVER, {"run": "amber"})
    for name in ("llm360_nonfinite_total", "llm360_data_wait_seconds_total", "llm360_step_seconds_sum"):
        assert collectors.registry.get_sample_value(name, {"run": "amber"}) == 0
    assert collectors.registry.get_sample_value("llm360_train_loss", {"run": "amber"}) is None
    with pytest.raises(KeyError):
        collectors.counter("llm360_nosuch_total")
