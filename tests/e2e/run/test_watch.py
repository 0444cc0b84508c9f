"""What the chart installs for watching, in a real cluster: from a run that failed to the person who is told."""

from __future__ import annotations

import contextlib
import urllib.request

import pytest
from testbed import kubectl

RULES = {"name": "prometheus-rules", "namespace": "llm360-testbed"}
"""The ConfigMap that the cluster's Prometheus reads rules from."""
KINDS = "servicemonitors,podmonitors,prometheusrules"
SAID_SECONDS, READ_SECONDS, TOLD_SECONDS = 120, 240, 240


@pytest.fixture(scope="module")
def rules(operator, watcher):
    """Everything that `monitoring` of the chart's values has is installed, and Prometheus goes by its rules."""
    enabled = ("monitors.enabled", "rules.prometheusRule", "rules.configMap", "dashboards.enabled")
    operator.deploy(*(f"--set=monitoring.{name}=true" for name in enabled))
    data = kubectl.get("configmap", "llm360-rules", "llm360-system")["data"]
    kubectl.apply([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": RULES, "data": data}])
    yield
    kubectl.kubectl("delete", "configmap", RULES["name"], f"--namespace={RULES['namespace']}")
    operator.deploy()


def has_rules(watcher):
    """Whether Prometheus has read the rules, which its pod sees up to a minute after the API server."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(f"{watcher.prometheus}/-/reload", data=b"", timeout=10).close()
        return bool(watcher.ask(f"{watcher.prometheus}/api/v1/rules")["data"]["groups"])
    return False


@pytest.mark.takes(minutes=8)
def test_a_run_that_has_failed_is_told_to_alertmanager(operator, rules, watcher, make_run):
    run = make_run("impossible", parallelism={"microBatch": 64})
    run.apply()
    run.wait_for_reason("InvalidSpec", SAID_SECONDS)
    run.wait(lambda: has_rules(watcher), "the rules in Prometheus", READ_SECONDS)
    name = ("LLM360RunFailed", "impossible")
    run.wait(lambda: name in watcher.alerts(run.namespace), "the alert at Alertmanager", TOLD_SECONDS)
    alert = watcher.alerts(run.namespace)[name]
    assert alert["labels"]["severity"] == "critical"
    assert f"Run {run.namespace}/impossible has failed" in alert["annotations"]["summary"]
    assert alert["annotations"]["runbook_url"].endswith("/docs/runbooks/LLM360RunFailed.md")
    run.delete()


def test_the_api_server_has_taken_every_object_that_watching_needs(operator, rules):
    found = kubectl.find(KINDS, "llm360-system")
    assert sorted(each["kind"] for each in found) == ["PodMonitor", "PrometheusRule", "ServiceMonitor"]
    dashboards = kubectl.find("configmaps", "llm360-system", "grafana_dashboard=1")
    assert len(dashboards) == 4
