"""What the chart installs for watching, in a real cluster: from a run that diverges to the person who is told."""

from __future__ import annotations

import contextlib
import urllib.request

import pytest
from testbed import kubectl

RULES = {"name": "prometheus-rules", "namespace": "llm360-testbed"}
"""The ConfigMap that the cluster's Prometheus reads rules from."""
KINDS = "servicemonitors,podmonitors,prometheusrules"
START_SECONDS, READ_SECONDS, TOLD_SECONDS = 600, 240, 240
TRAINING = {
    "sequenceLength": 128,
    "batchSize": 16,
    "optimizer": {"weightDecay": 10},
    "schedule": {"kind": "constant", "peakLearningRate": 10, "warmupSteps": 0},
}
"""The second step's gradient is no number."""


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


@pytest.mark.takes(minutes=10)
def test_a_run_that_diverges_and_fails_is_told_to_alertmanager(operator, rules, watcher, make_run):
    run = make_run("diverges", training=TRAINING, recovery={"nonFinite": "halt"})
    run.apply()
    run.wait(lambda: has_rules(watcher), "the rules in Prometheus", READ_SECONDS)
    run.wait_for_reason("NonFinite", START_SECONDS)
    for name, severity in {"LLM360LossNotFinite": "warning", "LLM360RunFailed": "critical"}.items():
        key = (name, "diverges")
        run.wait(lambda key=key: key in watcher.alerts(run.namespace), f"{name} at Alertmanager", TOLD_SECONDS)
        alert = watcher.alerts(run.namespace)[key]
        assert alert["labels"]["severity"] == severity
        assert f"un {run.namespace}/diverges " in alert["annotations"]["summary"]
        assert alert["annotations"]["runbook_url"].endswith(f"/docs/runbooks/{name}.md")
    run.remove()


def test_the_api_server_has_taken_every_object_that_watching_needs(operator, rules):
    found = kubectl.find(KINDS, "llm360-system")
    assert sorted(each["kind"] for each in found) == ["PodMonitor", "PrometheusRule", "ServiceMonitor"]
    dashboards = kubectl.find("configmaps", "llm360-system", "grafana_dashboard=1")
    assert len(dashboards) == 4
