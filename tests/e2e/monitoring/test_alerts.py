"""Each alert by the real promtool: it fires when it should, with a summary that names its run, and else is silent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llm360.monitoring.alerts import ALERTS, RUN_ALERTS, RUNBOOKS, Alert

RULES = Path(__file__).parents[3] / "helm/llm360/files/rules.yaml"
BY_NAME = {alert.name: alert for alert in ALERTS}
LABELS = {"namespace": "ml", "run": "amber"}

Series = dict[str, str]
"""Values in promtool's notation by a metric's name, with further labels where it has some."""


def over_time(count: Callable[[int], int | str]) -> str:
    """The values of 61 samples, each by its number; `_` where there is none."""
    return " ".join(str(count(number)) for number in range(61))


def evaluations(pod: str = "operator", **states: str) -> Series:
    """How many of a run's checkpoints are in which state of their evaluation, as the operator's pod says."""
    of_state = {"done": "3x500", "running": "0x500", "waiting": "0x500", "failed": "0x500"} | states
    return {f'llm360_run_evaluations{{pod="{pod}",state="{state}"}}': values for state, values in of_state.items()}


HANGING = evaluations(running="0x10 1x490", waiting="0x30 1x470")
"""One is running and does not end; the next waits for it."""

LAGGING = evaluations(
    done=over_time(lambda i: i // 4),
    running="1x60",
    waiting=over_time(lambda i: i // 2 - i // 4),
)
"""By half hours: checkpoints come every hour, and evaluating one takes two."""

CATCHING_UP = evaluations(
    done=over_time(lambda i: 40 if i < 4 else (i - 4) // 2),
    running=over_time(lambda i: int(i >= 4)),
    waiting=over_time(lambda i: 0 if i < 4 else 39 - (i - 4) // 2),
)
"""By half hours: a task is added to those of a run that has forty checkpoints."""

# Alert: minutes at which it fires on the series; its labels besides the run's; minutes between samples.
FIRES: list[tuple[str, Series, int, dict[str, str], int]] = [
    ("LLM360RunFailed", {'llm360_run_phase{phase="Failed",reason="JobFailed"}': "1x10"}, 5, {}, 1),
    ("LLM360RunNotProgressing", {"llm360_train_step": "0+1x20 20x50", "llm360_train_total_steps": "99x70"}, 60, {}, 1),
    ("LLM360RunNotProgressing", {'llm360_run_phase{phase="Starting",reason="WaitsForPods"}': "1x30"}, 20, {}, 1),
    (
        "LLM360RunNotProgressing",  # the driver is gone, and nobody has noticed
        {"llm360_train_step": "0+1x10 _x30", 'llm360_run_phase{phase="Training",reason="Training"}': "1x50"},
        45,
        {},
        1,
    ),
    ("LLM360LossSpike", {"llm360_train_loss": "3x70 5x10"}, 77, {}, 1),
    ("LLM360LossNotFinite", {"llm360_nonfinite_total": "0x20 1x5"}, 22, {}, 1),
    ("LLM360LossFlat", {"llm360_train_loss": "3x300", "llm360_train_step": "0+10x300"}, 2800, {}, 10),
    ("LLM360ThroughputDropped", {"llm360_train_tokens_per_second": "1000x400 700x60"}, 440, {}, 1),
    (
        "LLM360Straggler",
        {f'llm360_worker_own_seconds_total{{rank="{rank}"}}': f"0+{18 if rank == 2 else 0.6}x60" for rank in range(4)},
        40,
        {"rank": "2"},
        1,
    ),
    ("LLM360CheckpointOverdue", {"llm360_train_step": "0+10x100", "llm360_checkpoint_due_step": "500x100"}, 90, {}, 1),
    ("LLM360StorageUnavailable", {"llm360_storage_waiting": "0x5 1x10"}, 12, {}, 1),
    (
        "LLM360AttemptsBurning",
        {"llm360_attempt": "1x10 2x10 3x10 4x10", "llm360_checkpoint_step": "500x40"},
        38,
        {},
        1,
    ),
    ("LLM360EvaluationLagging", HANGING, 400, {}, 1),
    (
        "LLM360EvaluationLagging",  # also after the run's end
        HANGING
        | {'llm360_run_phase{phase="Training"}': "1x50 _x450", 'llm360_run_phase{phase="Succeeded"}': "_x50 1x450"},
        400,
        {},
        1,
    ),
    (
        "LLM360EvaluationLagging",  # a queue takes the training's pods, not the evaluations'
        HANGING | {'llm360_run_phase{phase="Suspended",reason="Preempted"}': "1x500"},
        400,
        {},
        1,
    ),
    ("LLM360EvaluationLagging", LAGGING, 1500, {}, 30),
    ("LLM360EvaluationLagging", evaluations(failed="0x10 1x50"), 30, {}, 1),
    ("LLM360IntegrityFailed", {"llm360_checkpoint_refused_total": "0x10 1x10"}, 15, {}, 1),
    ("LLM360IntegrityFailed", {'llm360_run_phase{phase="Failed",reason="Fenced"}': "1x10"}, 5, {}, 1),
    ("LLM360OperatorDown", {}, 10, {}, 1),
    ("LLM360ReconcileStale", {"llm360_operator_tick_age_seconds": "100x20"}, 10, {}, 1),
    (
        "LLM360ReconcileStale",
        {
            'llm360_operator_errors_total{reason="ApiError"}': "0+10x30",
            "llm360_operator_reconcile_seconds_count": "0+10x30",
        },
        25,
        {},
        1,
    ),
]

QUIET = {
    "llm360_attempts_total": 1,
    "llm360_nonfinite_total": 0,
    "llm360_checkpoint_refused_total": 0,
    "llm360_storage_waiting": 0,
    'llm360_run_evaluations{state="done"}': 3,
    'llm360_run_evaluations{state="running"}': 0,
    'llm360_run_evaluations{state="waiting"}': 0,
    'llm360_run_evaluations{state="failed"}': 0,
    'llm360_run_phase{phase="Training",reason="Training"}': 1,
}
"""What a healthy run says all along."""

SILENT: list[tuple[str, Series, int]] = [
    ("LLM360RunFailed", {'llm360_run_phase{phase="Suspended",reason="SuspendAsked"}': "1x60"}, 1),
    ("LLM360RunNotProgressing", {"llm360_train_step": "0+1x60", "llm360_train_total_steps": "99x60"}, 1),
    ("LLM360RunNotProgressing", {"llm360_train_step": "0+1x20 20x60", "llm360_train_total_steps": "20x80"}, 1),
    ("LLM360RunNotProgressing", {'llm360_run_phase{phase="Queued",reason="WaitsForQuota"}': "1x60"}, 1),
    ("LLM360RunNotProgressing", {"llm360_train_step": "0+1x20 _x4 12+1x40", "llm360_train_total_steps": "99x60"}, 1),
    ("LLM360LossSpike", {"llm360_train_loss": "10-0.05x120"}, 1),
    ("LLM360LossSpike", {"llm360_train_loss": "3x70 3.2x50"}, 1),
    ("LLM360LossNotFinite", {"llm360_nonfinite_total": "0x60"}, 1),
    ("LLM360LossFlat", {"llm360_train_loss": "5-0.005x400", "llm360_train_step": "0+10x400"}, 10),
    ("LLM360ThroughputDropped", {"llm360_train_tokens_per_second": "1000x400 900x60"}, 1),
    ("LLM360Straggler", {f'llm360_worker_own_seconds_total{{rank="{rank}"}}': "0+18x60" for rank in range(4)}, 1),
    ("LLM360CheckpointOverdue", {"llm360_train_step": "0+10x99", "llm360_checkpoint_due_step": "500x60 1000x40"}, 1),
    ("LLM360CheckpointOverdue", {"llm360_train_step": "0+10x100", "llm360_checkpoint_due_step": "1e18x100"}, 1),
    ("LLM360StorageUnavailable", {"llm360_storage_waiting": "0x5 1x3 0x30"}, 1),
    ("LLM360AttemptsBurning", {"llm360_attempt": "1x10 2x10 3x10 4x10", "llm360_checkpoint_step": "50+5x40"}, 1),
    ("LLM360AttemptsBurning", {"llm360_attempt": "1x60 2x60 3x60 4x60", "llm360_checkpoint_step": "500x240"}, 1),
    ("LLM360EvaluationLagging", evaluations(running="1x60", waiting="2x60"), 5),  # not for six hours yet
    (
        "LLM360EvaluationLagging",  # some are always open, but none for long
        evaluations(done=over_time(lambda i: i), running="1x60", waiting=over_time(lambda i: i % 2)),
        30,
    ),
    (
        "LLM360EvaluationLagging",  # the same, and the operator's pod is another after half of the time
        evaluations("a", done=over_time(lambda i: i if i < 30 else "_"), running="1x29", waiting="1x29")
        | evaluations("b", done=over_time(lambda i: i if i >= 30 else "_"), running="_x30 1x30", waiting="_x30 1x30"),
        30,
    ),
    (
        "LLM360EvaluationLagging",  # a checkpoint every eight hours, and five to evaluate it
        evaluations(done=over_time(lambda i: (i + 6) // 16), running=over_time(lambda i: int(i % 16 < 10))),
        30,
    ),
    ("LLM360EvaluationLagging", CATCHING_UP, 30),
    (
        "LLM360EvaluationLagging",  # nothing is evaluated while the run is suspended; then each takes three hours
        evaluations(
            done=over_time(lambda i: 3 + max(0, i - 41) // 6),
            running=over_time(lambda i: int(i > 40)),
            waiting=over_time(lambda i: 4 if i <= 40 else 3 - (i - 41) // 6),
        )
        | {'llm360_run_phase{phase="Suspended",reason="SuspendAsked"}': "1x40 _x20"},
        30,
    ),
    (
        "LLM360EvaluationLagging",  # a rewind takes back what was evaluated, and what was open
        evaluations(
            done=over_time(lambda i: i if i < 30 else i - 20),
            running="1x60",
            waiting=over_time(lambda i: i % 2 + 3 * (i < 30)),
        ),
        30,
    ),
    (
        "LLM360EvaluationLagging",  # what lagged is no longer asked for
        evaluations(done="3x22 _x38", running="0x11 1x10 _x38", waiting="0x22 _x38", failed="0x22 _x38"),
        30,
    ),
    ("LLM360IntegrityFailed", {"llm360_checkpoint_refused_total": "0x90"}, 1),
    ("LLM360OperatorDown", {"llm360_operator_tick_age_seconds": "1x60"}, 1),
    (
        "LLM360ReconcileStale",
        {
            "llm360_operator_tick_age_seconds": "1x60",
            'llm360_operator_errors_total{reason="ApiError"}': "0+1x60",
            "llm360_operator_reconcile_seconds_count": "0+10x60",
            'llm360_operator_reconcile_seconds_bucket{le="0.1"}': "0+10x60",
            'llm360_operator_reconcile_seconds_bucket{le="+Inf"}': "0+10x60",
        },
        1,
    ),
]


def input_series(series: Series, labels: dict[str, str]) -> list[dict[str, str]]:
    """As promtool takes them, the run's labels added."""
    said = ",".join(f'{name}="{value}"' for name, value in labels.items())
    made = []
    for selector, values in series.items():
        name, _, more = selector.partition("{")
        inside = ",".join(filter(None, [more.removesuffix("}"), said]))
        made.append({"series": f"{name}{{{inside}}}", "values": values})
    return made


def expected(alert: Alert, labels: dict[str, str]) -> dict[str, Any]:
    """The alert as Prometheus sends it."""
    summary = alert.summary
    for name, value in labels.items():
        summary = summary.replace(f"{{{{ $labels.{name} }}}}", value)
    return {
        "exp_labels": {"severity": alert.severity, **labels},
        "exp_annotations": {"summary": summary, "runbook_url": f"{RUNBOOKS}/{alert.name}.md"},
    }


def labels_of(alert: Alert) -> dict[str, str]:
    return LABELS if alert in RUN_ALERTS else {}


@pytest.fixture
def check(promtool: Any, tmp_path: Any) -> Any:
    """Runs promtool's tests on the committed rules; fails with what differs."""

    def check(tests: list[dict[str, Any]]) -> None:
        for interval in sorted({test["interval"] for test in tests}):
            file = tmp_path / f"tests-{interval}.yaml"
            of_interval = [test for test in tests if test["interval"] == interval]
            file.write_text(
                yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": interval, "tests": of_interval})
            )
            promtool("test", "rules", file)

    return check


def test_the_rules_are_sound(promtool):
    assert f"SUCCESS: {len(ALERTS)} rules found" in promtool("check", "rules", RULES)


def test_each_fires_when_it_should(check):
    tests = []
    for name, series, minute, labels, interval in FIRES:
        alert = BY_NAME[name]
        common = labels_of(alert)
        test = {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": [expected(alert, common | labels)]}
        tests.append(
            {"interval": f"{interval}m", "input_series": input_series(series, common), "alert_rule_test": [test]}
        )
    assert {name for name, *_ in FIRES} == set(BY_NAME)
    check(tests)


def test_each_is_silent_when_it_should(check):
    tests = []
    for name, series, interval in SILENT:
        times = [{"eval_time": f"{minute}m", "alertname": name} for minute in range(0, 61 * interval, interval)]
        series_of = input_series(series, labels_of(BY_NAME[name]))
        tests.append({"interval": f"{interval}m", "input_series": series_of, "alert_rule_test": times})
    assert {name for name, *_ in SILENT} == set(BY_NAME)
    check(tests)


def test_all_are_silent_in_a_real_run(check, real_records):
    """The record of a real run, a step a minute, one attempt, a checkpoint every twenty steps."""
    values = {
        "llm360_train_step": "step",
        "llm360_train_loss": "loss",
        "llm360_train_tokens_per_second": "tokens_per_second",
    }
    series = {name: " ".join(map(repr, real_records[column].to_pylist())) for name, column in values.items()}
    steps = real_records.num_rows
    checkpoints = " ".join(f"{step}x19" for step in range(0, steps, 20))
    series |= {"llm360_train_total_steps": f"{steps}x{steps}", "llm360_checkpoint_step": checkpoints}
    series |= {"llm360_checkpoint_due_step": " ".join(f"{step + 20}x19" for step in range(0, steps, 20))}
    series |= {name: f"{value}x{steps}" for name, value in QUIET.items()}
    times = [
        {"eval_time": f"{minute}m", "alertname": alert.name} for alert in RUN_ALERTS for minute in range(5, steps, 5)
    ]
    check([{"interval": "1m", "input_series": input_series(series, LABELS), "alert_rule_test": times}])


def test_all_are_silent_where_restarts_recover(check):
    """Two restarts an hour apart, each back by some steps, each followed by new checkpoints; new pods, new series."""
    step, loss = "0+2x60 _x2 110+2x60 _x2 220+2x60", "4-0.002x60 _x2 3.9-0.002x60 _x2 3.78-0.002x60"
    series = {
        "llm360_train_step": step,
        "llm360_train_loss": loss,
        "llm360_train_tokens_per_second": "1000x60 _x2 1000x60 _x2 1000x60",
        "llm360_train_total_steps": "999x200",
        "llm360_attempt": "1x62 2x62 3x62",
        "llm360_checkpoint_step": "0+2x186",
        "llm360_checkpoint_due_step": "400x200",
    }
    series |= {name: f"{value}x200" for name, value in QUIET.items()}
    times = [
        {"eval_time": f"{minute}m", "alertname": alert.name} for alert in RUN_ALERTS for minute in range(5, 180, 5)
    ]
    check([{"interval": "1m", "input_series": input_series(series, LABELS), "alert_rule_test": times}])
