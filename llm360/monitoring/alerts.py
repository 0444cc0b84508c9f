"""The alerts: what wakes a person, when, and with which sentence.

Generated into `helm/llm360/files/rules.yaml`, which the chart installs and any Prometheus can load. Each alert has a
page of its name in `docs/runbooks/`. A pod that is made again gives new series, so every expression comes down to
one value for a run first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import yaml

RUNBOOKS = "https://github.com/llm360/llm360/blob/main/docs/runbooks"


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        name: Also that of its runbook's page.
        severity: `critical` wakes somebody, `warning` is looked at in the morning.
        expr: PromQL.
        wait: How long it must hold.
        summary: One sentence that names the run.
    """

    name: str
    severity: Literal["critical", "warning"]
    expr: str
    wait: str
    summary: str


RUN = "max by (namespace, run)"
_OLDEST = "min by (namespace, run)"
_NAME = "{{ $labels.namespace }}/{{ $labels.run }}"
_LOSS_RISE = f"{RUN} (avg_over_time(llm360_train_loss[5m]) - avg_over_time(llm360_train_loss[1h] offset 5m))"
_OWN_RATE = "max by (namespace, run, rank) (rate(llm360_worker_own_seconds_total[10m]))"
_RATE = "quantile_over_time(0.5, llm360_train_tokens_per_second"
_ALL = "sum by (namespace, run)"
_OPEN = """llm360_run_evaluations{state=~"running|waiting"}"""
_SETTLED = """increase(llm360_run_evaluations{state=~"done|failed"}[6h])"""

RUN_ALERTS = (
    Alert(
        "LLM360RunFailed",
        "critical",
        f"""{RUN} (llm360_run_phase{{phase="Failed"}}) == 1""",
        "1m",
        f"Run {_NAME} has failed and will not go on by itself.",
    ),
    Alert(
        "LLM360RunNotProgressing",
        "critical",
        f"""(
  {RUN} (changes(llm360_train_step[10m])) == 0
  and {RUN} (llm360_train_step) < {RUN} (llm360_train_total_steps)
) or (
  {RUN} (llm360_run_phase{{phase=~"Starting|Training|Recovering"}}) == 1
  unless {RUN} (changes(llm360_train_step[10m])) > 0
)""",
        "15m",
        f"Run {_NAME} has finished no step for a quarter of an hour.",
    ),
    Alert(
        "LLM360LossSpike",
        "warning",
        f"""{_LOSS_RISE} > 0.3
and {_LOSS_RISE} > 3 * {RUN} (stddev_over_time(llm360_train_loss[1h] offset 5m))""",
        "2m",
        f"The loss of run {_NAME} has risen far above its last hour.",
    ),
    Alert(
        "LLM360LossNotFinite",
        "warning",
        "sum by (namespace, run) (increase(llm360_nonfinite_total[15m])) > 0",
        "0s",
        f"Run {_NAME} computed an infinite loss or gradient, or one that is not a number.",
    ),
    Alert(
        "LLM360LossFlat",
        "warning",
        f"""{RUN} (avg_over_time(llm360_train_loss[6h])) >= {RUN} (avg_over_time(llm360_train_loss[6h] offset 1d))
and {RUN} (changes(llm360_train_step[1h])) > 0""",
        "2h",
        f"The loss of run {_NAME} is no lower than a day ago.",
    ),
    Alert(
        "LLM360ThroughputDropped",
        "warning",
        f"{RUN} ({_RATE}[15m])) < 0.8 * {RUN} ({_RATE}[6h] offset 15m))",
        "15m",
        f"Run {_NAME} trains at less than 80% of the tokens per second of its last six hours.",
    ),
    Alert(
        "LLM360Straggler",
        "warning",
        f"""{_OWN_RATE} > 0.1
and {_OWN_RATE}
  > on (namespace, run) group_left () 1.5 * quantile by (namespace, run) (0.5, {_OWN_RATE})""",
        "15m",
        f"Rank {{{{ $labels.rank }}}} of run {_NAME} keeps all others waiting for more than a tenth of the time.",
    ),
    Alert(
        "LLM360CheckpointOverdue",
        "critical",
        f"{RUN} (llm360_train_step) > {RUN} (llm360_checkpoint_due_step)",
        "30m",
        f"Run {_NAME} has passed the step of a checkpoint half an hour ago, and it is not committed.",
    ),
    Alert(
        "LLM360StorageUnavailable",
        "critical",
        f"{RUN} (llm360_storage_waiting) == 1",
        "5m",
        f"Run {_NAME} cannot write to its object store.",
    ),
    Alert(
        "LLM360AttemptsBurning",
        "critical",
        f"""{RUN} (max_over_time(llm360_attempt[1h])) - {_OLDEST} (min_over_time(llm360_attempt[1h])) >= 3
unless {RUN} (max_over_time(llm360_checkpoint_step[1h])) > {_OLDEST} (min_over_time(llm360_checkpoint_step[1h]))""",
        "0s",
        f"Run {_NAME} was started again three times within an hour without a new checkpoint.",
    ),
    # A healthy run, too, often has some open, for each checkpoint opens evaluations. They are done oldest first: where
    # fewer were settled in six hours than were open before, one has been open for all that time. While they get fewer
    # they are caught up with, as after a task was added to many checkpoints. Where a count falls, as after a rewind,
    # `increase` finds too much, and the alert may be late. What has failed is tried again only after somebody changes
    # the run. `spec.suspend` holds evaluations; a run whose pods gave way to others, or that has ended, is evaluated.
    Alert(
        "LLM360EvaluationLagging",
        "warning",
        f"""(
  {_ALL} ({_OPEN} offset 6h) > {_ALL} ({_SETTLED})
  and {_ALL} ({_OPEN}) >= {_ALL} ({_OPEN} offset 6h)
  or {RUN} (llm360_run_evaluations{{state="failed"}}) > 0
)
unless {RUN} (max_over_time(llm360_run_phase{{reason="SuspendAsked"}}[6h])) == 1""",
        "15m",
        f"Evaluations of run {_NAME} have failed, or have been due for six hours and do not get fewer.",
    ),
    Alert(
        "LLM360IntegrityFailed",
        "critical",
        f"""sum by (namespace, run) (increase(llm360_checkpoint_refused_total[1h])) > 0
or {RUN} (llm360_run_phase{{reason=~"Fenced|IntegrityFailed"}}) == 1""",
        "0s",
        f"The ledger of run {_NAME} was claimed by another, or bytes of its release are not those that it names.",
    ),
)

OPERATOR_ALERTS = (
    Alert(
        "LLM360OperatorDown",
        "critical",
        "absent(llm360_operator_tick_age_seconds)",
        "5m",
        "Prometheus has not heard of the operator for five minutes; runs go on, but nobody looks after them.",
    ),
    Alert(
        "LLM360ReconcileStale",
        "critical",
        """max(llm360_operator_tick_age_seconds) > 60
or histogram_quantile(0.99, sum by (le) (rate(llm360_operator_reconcile_seconds_bucket[15m]))) > 5
or sum(rate(llm360_operator_errors_total[15m])) > 0.5 * sum(rate(llm360_operator_reconcile_seconds_count[15m]))""",
        "5m",
        "The operator's rounds hang, take seconds or mostly fail; what runs need is done late.",
    ),
)

ALERTS = RUN_ALERTS + OPERATOR_ALERTS


def rule_groups() -> dict[str, Any]:
    """What a rule file of Prometheus and the `spec` of a PrometheusRule hold."""
    groups = (("llm360-runs", RUN_ALERTS), ("llm360-operator", OPERATOR_ALERTS))
    return {"groups": [{"name": name, "rules": [_rule(alert) for alert in alerts]} for name, alerts in groups]}


def _rule(alert: Alert) -> dict[str, Any]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.wait,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "runbook_url": f"{RUNBOOKS}/{alert.name}.md"},
    }


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def rules_yaml() -> str:
    """The rule file."""
    head = "# Written by `python -m llm360.monitoring.generate` from llm360/monitoring/alerts.py; do not edit.\n"
    return head + yaml.dump(rule_groups(), Dumper=_Dumper, sort_keys=False, width=1000)
