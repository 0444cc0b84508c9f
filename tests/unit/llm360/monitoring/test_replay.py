"""The replay is strict OpenMetrics, loses no record, and says what the driver said when it was live."""

import io
import itertools
import math
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from operator import itemgetter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from synthetic import release

from llm360.monitoring.catalogue import DRIVER, RUN, STEP_BUCKETS, STEPS
from llm360.monitoring.collectors import Collectors
from llm360.monitoring.replay import write_labels, write_number, write_openmetrics
from llm360.monitoring.tables import records
from llm360.release.create import open_release
from llm360.release.entries import Eval, Score
from llm360.release.history import History
from llm360.release.metrics import SCHEMA, run_table, write_segment
from llm360.storage import open_storage


def text(table, history, run="amber-tiny"):
    out = io.BytesIO()
    write_openmetrics(table, history, run, out)
    return out.getvalue().decode()


LINE = re.compile(
    r'(?P<name>\w+)\{run="(?:[^"\\]|\\.)*"(?:,\w+="(?P<label>(?:[^"\\]|\\.)*)")?(?:,\w+="(?P<more>\w+)")?\}'
    r" (?P<value>\S+) (?P<time>\S+)"
)


def samples(page):
    """Values with their times, by name and by the label that is not the run's."""
    check_strictly(page)
    found = {}
    for line in page.splitlines():
        if not line.startswith("#"):
            match = LINE.fullmatch(line)
            key = tuple(part for part in match.group("name", "label", "more") if part is not None)
            found.setdefault(key, []).append((float(match["time"]), float(match["value"])))
    return found


def check_strictly(page):
    """Families, types, units, grouping and order of times, by prometheus-client's parser.

    It drops what follows the first bucket of a histogram's second point, so it is not given the histogram;
    promtool is (tests/e2e/monitoring).
    """
    others = re.sub(r"# TYPE llm360_step_seconds .*?(?=# TYPE|# EOF)", "", page, flags=re.DOTALL)
    assert others.endswith("# EOF\n")
    assert all(family.samples for family in text_string_to_metric_families(others))


@pytest.fixture(scope="module")
def replayed(eventful):
    history, read = eventful
    table = read(all_attempts=True)
    return samples(text(table, history)), list(records(table)), history


def test_every_record_is_there_with_its_time_and_value(replayed):
    found, made, _ = replayed
    assert len(made) > 400  # some steps were made twice
    times = [record.time.timestamp() for record in made]
    for name, field in {
        "llm360_train_step": "step",
        "llm360_train_loss": "loss",
        "llm360_train_learning_rate": "learning_rate",
        "llm360_train_gradient_norm": "grad_norm",
        "llm360_train_tokens_per_second": "tokens_per_second",
        "llm360_train_memory_bytes": "memory_bytes",
    }.items():
        said = found[name,]
        assert [time for time, _ in said] == pytest.approx(times, abs=0.0011), name
        values = [getattr(record, field) for record in made]
        assert [value for _, value in said] == pytest.approx(values, abs=0, nan_ok=True), name
    assert [v for _, v in found["llm360_train_source_loss", "docs"]] == [r.source_loss["docs"] for r in made]


def test_counters_and_histogram_grow_by_what_each_record_says(replayed):
    found, made, _ = replayed

    def increases(*key):
        values = [0.0, *(value for _, value in found[key])]
        return [after - before for before, after in itertools.pairwise(values)]

    assert increases("llm360_train_tokens_total") == [2048.0] * len(made)
    assert increases("llm360_step_seconds_sum") == pytest.approx([r.step_seconds for r in made])
    assert increases("llm360_worker_seconds_total") == pytest.approx([2 * r.step_seconds for r in made])
    assert sum(increases("llm360_nonfinite_total")) == 1
    assert increases("llm360_step_seconds_count") == [1.0] * len(made)
    below = Counter(bound for record in made for bound in STEP_BUCKETS if record.step_seconds <= bound)
    for bound in STEP_BUCKETS:
        assert found["llm360_step_seconds_bucket", f"{float(bound)}"][-1][1] == below[bound]


def test_the_ledger_s_entries_are_there(replayed):
    found, made, history = replayed
    said = found["llm360_ledger_sequence",]
    firsts = [next(group) for _, group in itertools.groupby(said, key=lambda sample: sample[1])]
    assert [value for _, value in firsts] == [entry.seq for entry in history.entries]
    times = [datetime.fromisoformat(entry.time).timestamp() for entry in history.entries]
    assert [time for time, _ in firsts] == pytest.approx(times, abs=0.002)
    attempts = found["llm360_attempt",]
    at = [bisect_right(attempts, record.time.timestamp() + 0.002, key=itemgetter(0)) - 1 for record in made]
    assert [attempts[index][1] for index in at] == [record.attempt for record in made]
    last = {name: found[name,][-1][1] for name in (metric.name for metric in RUN) if (name,) in found}
    assert last == {
        "llm360_train_total_steps": 400,
        "llm360_workers": 2,
        "llm360_worker_seconds_total": pytest.approx(last["llm360_worker_seconds_total"]),
        "llm360_attempts_total": 3,
        "llm360_attempt": 3,
        "llm360_rewinds_total": 1,
        "llm360_checkpoint_committed_total": 10,
        "llm360_checkpoint_refused_total": 1,
        "llm360_checkpoint_step": 400,
        "llm360_ledger_sequence": len(history.entries) - 1,
    }


def test_a_replay_ends_where_a_driver_that_saw_it_all_stands(replayed):
    """Live and replay are two writers of one catalogue; they must not drift apart."""
    found, made, _ = replayed
    live = Collectors(DRIVER, {"run": "amber-tiny"})
    for record in made:
        live.histogram("llm360_step_seconds").observe(record.step_seconds)
    for name in ("bucket", "count", "sum"):
        for key, said in found.items():
            if key[0] == f"llm360_step_seconds_{name}":
                labels = {"run": "amber-tiny"} | ({"le": key[1]} if name == "bucket" else {})
                assert live.registry.get_sample_value(key[0], labels) == pytest.approx(said[-1][1])


def test_scores_of_evaluations_are_there_and_hold_on(tmp_path):
    run, init = release.begin_release(open_storage(str(tmp_path)), num_chunks=3, chunk_steps=5)
    first = run.chunk(0, init)

    def evaluate(checkpoint, value):
        run.append(
            Eval(
                step=checkpoint.body.step,
                checkpoint=checkpoint.name,
                task="arc_easy",
                scores=(Score(metric="acc", value=value),),
                prefix="evals/x",
                digests={"results.json": "sha256:" + "0" * 64},
            )
        )

    evaluate(first, 0.25)
    second = run.chunk(1, first)
    evaluate(second, 0.5)
    evaluate(first, 0.125)  # done again: the newest checkpoint's is what is shown
    run.chunk(2, second)
    history = open_release(run.storage).history()
    found = samples(text(run_table(run.storage, history), history))
    scores = [value for _, value in found["llm360_evaluation_score", "arc_easy", "acc"]]
    assert [value for value, _ in itertools.groupby(scores)] == [0.25, 0.5]
    assert min(scores.count(0.25), scores.count(0.5)) >= 5, "said again at each step"
    assert found["llm360_evaluation_score_step", "arc_easy", "acc"][-1][1] == 10


def test_records_of_one_millisecond_and_clocks_that_jump_back_stay_in_order(step_record, eventful):
    first = step_record(step=1)
    made = [first, replace(first, step=2), replace(first, step=3, time=first.time - timedelta(seconds=1))]
    table = table_of(made)
    said = samples(text(table, History()))["llm360_train_step",]
    assert [value for _, value in said] == [3, 1, 2]
    assert [round(after[0] - before[0], 3) for before, after in itertools.pairwise(said)] == [1, 0.001]


def test_numbers_and_labels_that_text_must_escape(step_record):
    odd = step_record(
        loss=math.nan, grad_norm=math.inf, mfu=None, source_loss={'a"b\\c\n': -1.5e-300}, source_tokens={}
    )
    page = text(table_of([odd]), History(), run='x"y')
    assert "llm360_mfu_ratio{" not in page
    found = samples(page)
    assert math.isnan(found["llm360_train_loss",][0][1])
    assert found["llm360_train_gradient_norm",][0][1] == math.inf
    assert found["llm360_train_source_loss", r"a\"b\\c\n"][0][1] == -1.5e-300
    assert write_number(-math.inf) == "-Inf"
    assert write_labels({"a": "b", "c": "d"}) == 'a="b",c="d"'


def test_an_empty_record_is_an_empty_page():
    assert text(SCHEMA.empty_table(), History()) == "# EOF\n"


def table_of(made):
    data = write_segment(made)
    return pq.read_table(pa.BufferReader(data)).cast(SCHEMA)


def test_every_family_of_the_record_is_replayed(replayed):
    found, _, _ = replayed
    families = {key[0].removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for key in found}
    # The synthetic run is on a CPU, whose peak nobody knows.
    assert families == {metric.name for metric in STEPS + RUN} - {"llm360_mfu_ratio"}
