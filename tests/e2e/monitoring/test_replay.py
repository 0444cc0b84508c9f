"""A release's record in a real Prometheus: every recorded value is found again by query."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from datetime import datetime
from operator import itemgetter

import pytest

from llm360.monitoring.catalogue import RUN, STEPS
from llm360.monitoring.tables import records
from llm360.release.create import open_release
from llm360.release.metrics import run_table
from llm360.storage import open_storage

# Metric: what a record says of it, and whether the metric counts it up.
FOUND = {
    "llm360_train_step": (lambda r: r.step, False),
    "llm360_train_loss": (lambda r: r.loss, False),
    "llm360_train_learning_rate": (lambda r: r.learning_rate, False),
    "llm360_train_gradient_norm": (lambda r: r.grad_norm, False),
    "llm360_train_tokens_per_second": (lambda r: r.tokens_per_second, False),
    "llm360_train_memory_bytes": (lambda r: r.memory_bytes, False),
    "llm360_train_tokens_total": (lambda r: sum(r.source_tokens.values()), True),
    "llm360_step_seconds_sum": (lambda r: r.step_seconds, True),
    "llm360_step_seconds_count": (lambda _: 1, True),
    "llm360_data_wait_seconds_total": (lambda r: r.data_wait_seconds, True),
    "llm360_checkpoint_blocked_seconds_total": (lambda r: r.checkpoint_stall_seconds, True),
    'llm360_train_source_loss{source="docs"}': (lambda r: r.source_loss["docs"], False),
    'llm360_train_source_tokens_total{source="code"}': (lambda r: r.source_tokens["code"], True),
}


@pytest.fixture(scope="module")
def recorded(eventful_uri):
    """The ledger's history and all records, of all attempts."""
    storage = open_storage(eventful_uri)
    history = open_release(storage).history()
    return history, list(records(run_table(storage, history, all_attempts=True)))


@pytest.mark.parametrize("selector", FOUND)
def test_every_recorded_value_is_found_with_its_time(replayed, recorded, selector):
    value_of, counts = FOUND[selector]
    _, made = recorded
    end = made[-1].time.timestamp() + 60
    samples = replayed.samples(selector, end)
    assert [time for time, _ in samples] == pytest.approx([r.time.timestamp() for r in made], abs=0.0011)
    values = [value for _, value in samples]
    if counts:
        values = [after - before for before, after in itertools.pairwise([0.0, *values])]
    assert values == pytest.approx([value_of(r) for r in made], rel=1e-9, abs=1e-9 if counts else 0, nan_ok=True)


def test_all_families_are_there(replayed, recorded):
    _, made = recorded
    end = made[-1].time.timestamp() + 60
    names = replayed.ask("label/__name__/values", start=made[0].time.timestamp() - 60, end=end)
    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in names}
    assert families == {metric.name for metric in STEPS + RUN} - {"llm360_mfu_ratio"}  # no peak of a CPU is known


def test_the_ledger_is_found_entry_by_entry(replayed, recorded):
    history, _ = recorded
    end = datetime.fromisoformat(history.entries[-1].time).timestamp() + 1
    samples = replayed.samples("llm360_ledger_sequence", end)
    firsts = [next(group) for _, group in itertools.groupby(samples, key=lambda sample: sample[1])]
    assert [value for _, value in firsts] == [entry.seq for entry in history.entries]
    times = [datetime.fromisoformat(entry.time).timestamp() for entry in history.entries]
    assert [time for time, _ in firsts] == pytest.approx(times, abs=0.002)


def test_each_record_s_attempt_is_the_one_at_its_time(replayed, recorded):
    _, made = recorded
    said = replayed.samples("llm360_attempt", made[-1].time.timestamp() + 60)
    at = [bisect_right(said, record.time.timestamp() + 0.002, key=itemgetter(0)) - 1 for record in made]
    assert [said[index][1] for index in at] == [record.attempt for record in made]
