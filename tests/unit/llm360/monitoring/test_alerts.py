"""Alerts name their run, have a runbook each, and ask for metrics that exist."""

import re
from pathlib import Path

import yaml

from llm360.monitoring.alerts import ALERTS, RUN_ALERTS, rule_groups, rules_yaml
from llm360.monitoring.catalogue import CATALOGUE

RUNBOOKS = Path(__file__).parents[4] / "docs/runbooks"


def test_each_alert_has_its_runbook_and_each_runbook_its_alert():
    pages = {path.stem for path in RUNBOOKS.glob("LLM360*.md")}
    assert pages == {alert.name for alert in ALERTS}
    for alert in ALERTS:
        text = (RUNBOOKS / f"{alert.name}.md").read_text()
        assert re.findall(r"^# .*|^## .*", text, re.MULTILINE) == [
            f"# {alert.name}",
            "## Meaning",
            "## Impact",
            "## Diagnosis",
            "## Mitigation",
        ]
        for link in re.findall(r"\]\(([\w.]+\.md)", text):
            assert (RUNBOOKS / link).exists(), (alert.name, link)


def test_summaries_name_the_run_and_severities_are_known():
    for alert in RUN_ALERTS:
        assert "{{ $labels.namespace }}/{{ $labels.run }}" in alert.summary
    assert len({alert.name for alert in ALERTS}) == len(ALERTS)


def test_expressions_ask_for_metrics_of_the_catalogue():
    names = {each.name + suffix for each in CATALOGUE for suffix in ("", "_bucket", "_count", "_sum")}
    for alert in ALERTS:
        asked = set(re.findall(r"llm360_\w+", alert.expr))
        assert asked
        assert asked <= names, alert.name


def test_the_file_says_what_the_groups_say():
    assert yaml.safe_load(rules_yaml()) == rule_groups()


def test_the_guide_lists_each_alert_with_its_severity():
    guide = (RUNBOOKS.parent / "how-to/monitoring.md").read_text()
    for alert in ALERTS:
        assert f"| [{alert.name}](../runbooks/{alert.name}.md) | {alert.severity} |" in guide
    assert guide.count("](../runbooks/LLM360") == len(ALERTS)
