"""The chart as Helm renders it: closed values, what it must hold, and the manifests that are rendered from it."""

import itertools
import subprocess
from pathlib import Path

import pytest
import yaml
from testbed import build, faults

ROOT = Path(__file__).parents[3]
CHART = ROOT / "helm" / "llm360"


@pytest.fixture(scope="session")
def helm(machine):
    """Runs the testbed's Helm."""
    program = build.program("helm", "helm")

    def run(*arguments):
        return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)

    return run


@pytest.fixture
def render(helm):
    """The chart's objects by kind and name."""

    def render(*settings, name="llm360"):
        values = [part for setting in settings for part in ("--set", setting)]
        result = helm("template", name, str(CHART), "--namespace", "ops", "--kube-version", "1.34.0", *values)
        assert result.returncode == 0, result.stderr
        documents = [document for document in yaml.safe_load_all(result.stdout) if document]
        return {(document["kind"], document["metadata"]["name"]): document for document in documents}

    return render


def pod_of(objects):
    return objects["Deployment", "llm360"]["spec"]["template"]


def test_values_are_closed_and_each_has_a_sentence(helm):
    for wrong in (
        "image.repo=x",
        "nosuch=1",
        "parallel=0",
        "evaluation.maxRunning=-1",
        "image.digest=sha256:1",
        "crds.keep=maybe",
    ):
        result = helm("template", str(CHART), "--kube-version", "1.34.0", "--set", wrong)
        assert result.returncode != 0, wrong
        assert "at '/" in result.stderr or "at ''" in result.stderr
    lines = (CHART / "values.yaml").read_text().splitlines()
    for before, line in itertools.pairwise(lines):
        if line and not line.lstrip().startswith("#") and before.strip() == "":
            pytest.fail(f"no sentence above: {line}")


def test_lint_is_clean(helm):
    result = helm("lint", str(CHART), "--strict")
    assert result.returncode == 0, result.stdout


def test_the_definition_is_the_generated_one_kept_or_left_out(render):
    key = ("CustomResourceDefinition", "llm360runs.llm360.ai")
    generated = yaml.safe_load((ROOT / "manifests" / "crd.yaml").read_text())
    kept = render()[key]
    assert kept["spec"] == generated["spec"]
    assert kept["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert "annotations" not in render("crds.keep=false")[key]["metadata"]
    assert key not in render("crds.enabled=false")


def test_install_yaml_is_rendered_from_the_chart(helm):
    result = helm(
        "template", "llm360", "helm/llm360", "--namespace", "llm360-system", "--kube-version", "1.34.0", "--skip-tests",
        "--set", "crds.enabled=false",
    )  # fmt: skip
    namespace, *others = yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text())
    assert namespace["kind"] == "Namespace"
    assert others == [document for document in yaml.safe_load_all(result.stdout) if document], "scripts/manifests.sh"


@pytest.mark.parametrize(
    ("setting", "value"), [("evaluation.maxRunning=0", ""), ("evaluation.maxRunning=100000", "100000")]
)
def test_a_bound_of_evaluations_reaches_the_operator(render, setting, value):
    (container,) = pod_of(render(setting))["spec"]["containers"]
    assert {"name": "LLM360_MAX_EVALUATIONS", "value": value} in container["env"]


def test_the_pod_is_restricted(render):
    spec = pod_of(render())["spec"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    deployment = render()["Deployment", "llm360"]["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})


def test_every_selector_finds_the_operator_and_not_the_test_pod(render):
    objects = render()
    operator, test = pod_of(objects)["metadata"]["labels"], objects["Pod", "llm360-test"]["metadata"]["labels"]
    selectors = [
        objects["Deployment", "llm360"]["spec"]["selector"]["matchLabels"],
        objects["Service", "llm360-metrics"]["spec"]["selector"],
        objects["PodDisruptionBudget", "llm360"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy", "llm360"]["spec"]["podSelector"]["matchLabels"],
        dict([faults.OPERATOR.split("=")]),
    ]
    for selector in selectors:
        assert selector.items() <= operator.items()
        assert not selector.items() <= test.items()


def test_rights_are_the_cluster_s_or_those_of_the_watched_namespaces(render):
    everywhere = render()
    assert ("ClusterRoleBinding", "llm360") in everywhere
    watched = render("watchNamespaces={a,b}")
    assert ("ClusterRoleBinding", "llm360") not in watched
    assert watched["RoleBinding", "llm360"]["roleRef"]["name"] == "llm360"
    rules = everywhere["ClusterRole", "llm360"]["rules"]
    granted = {(resource, verb) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}
    assert not any(resource == "secrets" or verb == "*" or resource == "*" for resource, verb in granted)
    assert {verb for resource, verb in granted if resource == "llm360runs"} == {"get", "list", "watch"}


def test_who_may_edit_or_view_a_namespace_may_do_so_with_its_runs(render):
    objects = render()
    roles = {name: objects["ClusterRole", f"llm360-{name}"] for name in ("edit", "view")}
    aggregate = "rbac.authorization.k8s.io/aggregate-to-"
    to = {
        name: {label.removeprefix(aggregate) for label in role["metadata"]["labels"] if label.startswith(aggregate)}
        for name, role in roles.items()
    }
    assert to == {"edit": {"admin", "edit"}, "view": {"admin", "edit", "view"}}
    verbs = {name: {verb for rule in role["rules"] for verb in rule["verbs"]} for name, role in roles.items()}
    assert verbs["view"] == {"get", "list", "watch"}
    assert "create" in verbs["edit"]
    assert all(rule["resources"] == ["llm360runs"] for role in roles.values() for rule in role["rules"])


def test_the_operator_leaves_a_lost_node_as_soon_as_its_runs_do(render):
    own = {"key": "a", "operator": "Exists"}
    for objects, more in ((render(), []), (render("tolerations[0].key=a", "tolerations[0].operator=Exists"), [own])):
        lost, others = [], []
        for each in pod_of(objects)["spec"]["tolerations"]:
            (lost if "tolerationSeconds" in each else others).append(each)
        assert {each["key"].rpartition("/")[2]: each["tolerationSeconds"] for each in lost} == {
            "not-ready": 30,
            "unreachable": 30,
        }
        assert others == more


def test_images_go_by_digest_where_one_is_given(render):
    digest = "sha256:" + "a" * 64
    objects = render(f"image.digest={digest}", "trainerImage.tag=v2")
    (container,) = pod_of(objects)["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert container["image"] == environment["LLM360_OPERATOR_IMAGE"] == f"llm360/operator@{digest}"
    assert environment["LLM360_TRAINER_IMAGE"] == "llm360/trainer:v2"


def test_two_releases_share_nothing_but_the_definition(render):
    one, other = set(render()), set(render(name="second"))
    assert one & other == {("CustomResourceDefinition", "llm360runs.llm360.ai")}
