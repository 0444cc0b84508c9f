"""What the chart installs for watching: monitors that Prometheus Operator's own definitions take, rules, dashboards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from testbed import build

from llm360.monitoring.alerts import rule_groups
from llm360.monitoring.boards import BOARDS
from llm360.spec import load_run
from llm360_operator import builders

ROOT = Path(__file__).parents[3]
MODULE = "github.com/prometheus-operator/prometheus-operator"


@pytest.fixture(scope="module")
def render(request: pytest.FixtureRequest) -> Any:
    """The chart's objects by kind and name, with values set."""
    if not build.component("helm").is_built():
        request.getfixturevalue("machine")
    helm = build.program("helm", "helm")

    def render(*settings: str) -> dict[tuple[str, str], Any]:
        values = [part for setting in settings for part in ("--set", setting)]
        command = [helm, "template", "llm360", ROOT / "helm/llm360", "--namespace", "ops", "--kube-version", "1.34.0"]
        result = subprocess.run([*command, *values], capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        documents = [document for document in yaml.safe_load_all(result.stdout) if document]
        return {(document["kind"], document["metadata"]["name"]): document for document in documents}

    return render


@pytest.fixture(scope="module")
def check_definition(programs: Path) -> Any:
    """Checks an object against Prometheus Operator's CustomResourceDefinition; unknown fields are refused."""
    folder = build.module_folder("prometheus-operator", MODULE) / "example/prometheus-operator-crd"

    def check(made: dict[str, Any]) -> None:
        plural = made["kind"].lower() + "s"
        crd = yaml.safe_load((folder / f"monitoring.coreos.com_{plural}.yaml").read_text())
        (version,) = [each for each in crd["spec"]["versions"] if each["name"] == made["apiVersion"].split("/")[1]]
        schema = closed(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
        jsonschema.Draft202012Validator(schema).validate(made["spec"])

    return check


def closed(schema: Any) -> Any:
    """The schema, objects with named fields refusing others; forms that only Kubernetes knows are left out."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items() if key not in ("format", "nullable")}
    if "properties" in schema and schema.get("type") == "object":
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made


def labels_match(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()


@pytest.fixture(scope="module")
def cluster() -> Any:
    """A run's RayCluster, as the operator makes it."""
    run = {"apiVersion": "llm360.ai/v1alpha1", "kind": "LLM360Run"}
    run["metadata"] = {"name": "amber", "namespace": "ml", "uid": "1"}
    config = load_run("amber-tiny", ["cluster.image=x"], store="s3://b/amber")
    return run, builders.ray_cluster(run, config, "amber-config", "sha256:0")


def test_nothing_of_it_comes_unasked(render):
    kinds = {kind for kind, _ in render()}
    assert not kinds & {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ConfigMap"}


def test_monitors_are_valid_and_find_operator_and_runs(render, check_definition, cluster):
    objects = render("monitoring.monitors.enabled=true", "monitoring.monitors.labels.release=prom")
    service, pods = objects["ServiceMonitor", "llm360"], objects["PodMonitor", "llm360-runs"]
    for made in (service, pods):
        check_definition(made)
        assert made["metadata"]["labels"]["release"] == "prom"
    mistyped = {**service, "spec": {**service["spec"], "selectr": {}}}
    with pytest.raises(jsonschema.ValidationError, match="selectr"):
        check_definition(mistyped)
    target = objects["Service", "llm360-metrics"]
    assert labels_match(service["spec"]["selector"]["matchLabels"], target["metadata"]["labels"])
    assert {endpoint["port"] for endpoint in service["spec"]["endpoints"]} <= {
        port["name"] for port in target["spec"]["ports"]
    }
    assert service["spec"]["endpoints"][0]["honorLabels"] is True
    _, made = cluster
    head = made["spec"]["headGroupSpec"]["template"]
    (worker,) = made["spec"]["workerGroupSpecs"]
    asked = {endpoint["port"] for endpoint in pods["spec"]["podMetricsEndpoints"]}
    for template in (head, worker["template"]):
        assert labels_match(pods["spec"]["selector"]["matchLabels"], template["metadata"]["labels"])
    ports = {port["name"] for port in head["spec"]["containers"][0]["ports"]}
    assert asked == {"status", "metrics"} <= ports
    assert pods["spec"]["namespaceSelector"] == {"any": True}
    watched = render("monitoring.monitors.enabled=true", "watchNamespaces={a,b}")["PodMonitor", "llm360-runs"]
    assert watched["spec"]["namespaceSelector"] == {"matchNames": ["a", "b"]}


def test_the_scraper_is_let_in_to_runs_and_no_one_else_but_the_operator(cluster):
    run, made = cluster
    policy = builders.network_policy(run)["spec"]
    head = made["spec"]["headGroupSpec"]["template"]["metadata"]["labels"]
    assert labels_match(policy["podSelector"]["matchLabels"], head)
    allowed = {
        peer["podSelector"]["matchLabels"].get("app.kubernetes.io/name")
        for rule in policy["ingress"]
        if 9360 in {port.get("port") for port in rule.get("ports", [])}
        for peer in rule["from"]
    }
    assert allowed == {"prometheus", "llm360-operator"}


def test_pods_are_annotated_for_a_plain_prometheus(render, cluster):
    annotations = render()["Deployment", "llm360"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations == {"prometheus.io/scrape": "true", "prometheus.io/port": "8080"}
    own = render("podAnnotations.prometheus\\.io/scrape=no")["Deployment", "llm360"]["spec"]["template"]["metadata"]
    assert own["annotations"]["prometheus.io/scrape"] == "no"
    off = render("metrics.annotations=false")["Deployment", "llm360"]["spec"]["template"]["metadata"]
    assert "annotations" not in off
    _, made = cluster
    head = made["spec"]["headGroupSpec"]["template"]["metadata"]["annotations"]
    assert head == {"prometheus.io/scrape": "true", "prometheus.io/port": "9360"}
    (workers,) = made["spec"]["workerGroupSpecs"]  # what Ray says of them
    assert workers["template"]["metadata"]["annotations"] == head | {"prometheus.io/port": "8080"}


def test_rules_come_as_object_and_as_file(render, check_definition):
    objects = render("monitoring.rules.prometheusRule=true", "monitoring.rules.configMap=true")
    made = objects["PrometheusRule", "llm360"]
    check_definition(made)
    assert made["spec"] == rule_groups()
    assert yaml.safe_load(objects["ConfigMap", "llm360-rules"]["data"]["llm360.yaml"]) == rule_groups()
    assert ("ConfigMap", "llm360-rules") not in render("monitoring.rules.prometheusRule=true")


def test_each_dashboard_comes_as_the_sidecar_wants_it(render):
    objects = render("monitoring.dashboards.enabled=true", "monitoring.dashboards.folder=LLMs")
    for board in BOARDS:
        made = objects["ConfigMap", f"{board.uid}-dashboard"]
        assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert made["metadata"]["annotations"] == {"grafana_folder": "LLMs"}
        committed = (ROOT / f"helm/llm360/dashboards/{board.uid}.json").read_text()
        assert json.loads(made["data"][f"{board.uid}.json"]) == json.loads(committed)
