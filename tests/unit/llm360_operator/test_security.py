"""Each way in which a run could reach more than the schema names, tried: shell, environment, volumes, host, others."""

import asyncio
import copy
import json
import re
from pathlib import Path

import pytest
import yaml

from llm360.canonical import sha256_digest
from llm360.errors import SpecError
from llm360.spec import resolve
from llm360.spec.crd import crd
from llm360_operator import builders, handlers
from llm360_operator.api import KINDS, Api, ApiError, Connection
from llm360_operator.cache import Cache
from llm360_operator.names import Key, status_url

ROOT = Path(__file__).parents[3]
INSTALL = list(yaml.safe_load_all((ROOT / "manifests" / "install.yaml").read_text()))

POD = {
    "containers.0.image",
    "containers.0.envFrom",
    "containers.0.resources.requests",
    "containers.0.resources.limits",
    "serviceAccountName",
    "nodeSelector",
    "tolerations",
    "volumes.0.emptyDir.sizeLimit",  # shared memory: half of the pod's
}
WORKERS, HEAD = "RayCluster.spec.workerGroupSpecs.0", "RayCluster.spec.headGroupSpec.template.spec"
PODS = (HEAD, f"{WORKERS}.template.spec", "Job.spec.template.spec", "Evaluation.spec.template.spec")
MAY_SHOW = {
    "ConfigMap.data.run.json",
    "Evaluation.metadata.annotations.llm360.ai/tasks",
    "Evaluation.metadata.labels.kueue.x-k8s.io/queue-name",
    "Evaluation.spec.backoffLimit",
    "Evaluation.spec.template.spec.containers.0.env",  # the store's endpoint and region
    "Evaluation.spec.template.spec.containers.0.command",  # address, tasks and mirror, each one word
    "RayCluster.metadata.annotations.llm360.ai/digest",
    "RayCluster.metadata.labels.kueue.x-k8s.io/queue-name",
    "RayCluster.spec.suspend",
    f"{HEAD}.containers.0.env.1.value",  # recovery.stopSeconds
    f"{WORKERS}.replicas",
    f"{WORKERS}.minReplicas",
    f"{WORKERS}.maxReplicas",
    f"{WORKERS}.rayStartParams.num-cpus",
    f"{WORKERS}.rayStartParams.num-gpus",
    *(f"{pod}.priorityClassName" for pod in (HEAD, f"{WORKERS}.template.spec")),
    *(f"{pod}.{field}" for pod in PODS for field in POD),
} - {"Job.spec.template.spec.containers.0.image"}
"""Where in its children a specification may show; everything else is the operator's."""

HOSTILE = [
    "$(id)", "`id`", "; id", "' || id #", "${HOME}", "$(AWS_SECRET_ACCESS_KEY)", "../../x", "a/b",
    "--privileged", "x\ny: z",
]  # fmt: skip


def document(**spec):
    spec = {"preset": "amber-tiny", "storage": {"uri": "s3://b/amber"}, "cluster": {"image": "trainer:1"}} | spec
    metadata = {"name": "amber", "namespace": "research", "uid": "u-1", "generation": 1}
    return {"apiVersion": "llm360.ai/v1alpha1", "kind": "LLM360Run", "metadata": metadata, "spec": spec}


def children(run):
    """All that the operator makes of a run."""
    config = resolve(run)
    made = [
        builders.config_map(run, "amber-config", config.canonical()),
        builders.network_policy(run),
        builders.preflight_job(run, config, "amber-config", "operator:1"),
        builders.ray_cluster(run, config, "amber-config", sha256_digest(config.canonical())),
        builders.ray_job(run, 3, "0-0"),
    ]
    labels = [task.label for task in config.spec.evaluation.tasks] or ["arc"]
    evaluation = builders.evaluation_job(run, config, config.spec.evaluation, 762, f"sha256:{'a' * 64}", labels)
    return {child["kind"]: child for child in made} | {"Evaluation": evaluation}


def flat(value, path=""):
    """Leaves by path."""
    if not isinstance(value, dict | list) or not value:
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {at: leaf for key, inner in items for at, leaf in flat(inner, f"{path}.{key}".strip(".")).items()}


def shown(run):
    """Where a run's children differ from a plain run's."""
    one, other = flat(children(run)), flat(children(document()))
    return {path for path in {*one, *other} if one.get(path) != other.get(path)}


def is_allowed(path):
    return any(path == known or path.startswith(f"{known}.") for known in MAY_SHOW)


def leaves(schema, path=()):
    """Paths of all fields of the schema that hold a value or a map, with their schemas."""
    for name, member in schema.get("properties", {}).items():
        yield from leaves(member, (*path, name))
    if "properties" not in schema:
        yield path, schema


def tries(schema):
    """Values that an attacker would like to see in a field, and other ones that it may take."""
    if schema["type"] == "string":
        return [*schema.get("enum", []), *HOSTILE, "other"]
    if schema["type"] in ("integer", "number"):
        return [1, 2, 7]
    if schema["type"] == "boolean":
        return [True, False]
    if schema["type"] == "array":
        return [HOSTILE, [{"key": word, "operator": "Exists"} for word in ("a", "b")]]
    return [dict.fromkeys(HOSTILE, "x"), {"pool": "h100"}]


def with_value(path, value):
    run = document()
    node = run["spec"]
    for name in path[:-1]:
        node[name] = copy.deepcopy(node.get(name, {}))
        node = node[name]
    node[path[-1]] = value
    return run


def test_whatever_a_field_holds_shows_only_where_it_may():
    schema = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    taken, paths = 0, set()
    for path, field in leaves(schema):
        for value in tries(field):
            try:
                paths |= shown(with_value(path, value))
            except SpecError:
                continue
            taken += 1
    assert taken > 150, "the fields take nothing of what is tried: nothing is shown"
    assert sorted(path for path in paths if not is_allowed(path)) == []
    assert f"{HEAD}.nodeSelector.pool" in paths


@pytest.mark.parametrize(
    "section", ["", "cluster", "cluster.head", "cluster.workers", "evaluation", "storage", "release"]
)
@pytest.mark.parametrize(
    "field",
    [
        "env", "envFrom", "command", "args", "entrypoint", "volumes", "volumeMounts", "hostPath", "hostNetwork",
        "hostPID", "hostIPC", "hostPort", "securityContext", "privileged", "initContainers", "containers",
        "podTemplate", "template", "rayStartParams", "runtimeEnvYAML", "namespace", "lifecycle", "annotations",
        "labels",
    ],
)  # fmt: skip
def test_a_field_that_the_schema_does_not_name_is_refused(section, field):
    path = (*filter(None, section.split(".")), field)
    with pytest.raises(SpecError, match=field):
        resolve(with_value(path, {"a": "b"}))


@pytest.mark.parametrize("word", [*HOSTILE, "--help", "$$(JOB_UID)", "$JOB_UID"])
def test_kubernetes_puts_nothing_but_the_jobs_uid_into_an_evaluations_command(word):
    """It replaces `$(NAME)` by a variable of the pod, a Secret's too, wherever no second `$` stands before it."""
    command = builders.evaluation_command(f"s3://b/{word}", f"sha256:{'a' * 64}", ["arc"], word)

    def expanded(text):
        return re.sub(r"\$\$|\$\((\w+)\)", lambda found: f"<{found[1]}>" if found[1] else "$", text)

    words = [expanded(each) for each in command]
    assert words[2] == f"s3://b/{word}"
    assert words[7] == f"--mirror={word}"
    assert [each for each in words if each.startswith("<")] == ["<JOB_UID>"]


def test_the_schema_lets_nothing_through_that_it_does_not_describe():
    text = json.dumps(crd())
    assert "x-kubernetes-preserve-unknown-fields" not in text
    assert "x-kubernetes-embedded-resource" not in text
    assert '"additionalProperties": true' not in text


@pytest.mark.parametrize("name", ["other/releases", "../releases", "releases\n", "$(id)", "A", ""])
def test_secret_and_account_are_names_in_the_runs_own_namespace(name):
    for storage in ({"secretRef": {"name": name}}, {"serviceAccountName": name}):
        with pytest.raises(SpecError, match=r"storage\."):
            resolve(document(storage={"uri": "s3://b/a"} | storage))
    with pytest.raises(SpecError, match="namespace"):
        resolve(document(storage={"uri": "s3://b/a", "secretRef": {"name": "a", "namespace": "other"}}))


def test_no_pod_reaches_the_host_or_rises_above_itself():
    for path, value in flat(children(document())).items():
        last = path.rpartition(".")[2]
        assert last not in ("hostPath", "hostNetwork", "hostPID", "hostIPC", "hostPort", "privileged", "runAsUser"), (
            path
        )
        if last in ("allowPrivilegeEscalation", "automountServiceAccountToken"):
            assert value is False


def test_every_child_is_in_the_runs_namespace_and_names_no_other():
    run = document()
    run["metadata"]["namespace"] = "theirs"
    for child in children(run).values():
        assert child["metadata"]["namespace"] == "theirs"
        found = [path for path in flat(child) if path.rpartition(".")[2] == "namespace"]
        assert found == ["metadata.namespace"]
    assert status_url("theirs", "amber") == "http://amber-head-svc.theirs.svc:9360/status"


def test_a_child_with_a_strangers_label_wakes_only_its_own_namespace(monkeypatch):
    asked, handled = [], []
    monkeypatch.setattr("kopf.on.event", lambda *_, **__: handled.append)
    handlers.register(None, Cache(), asked.append)
    child = {"metadata": {"namespace": "mine", "name": "x", "labels": {"llm360.ai/run": "theirs"}}}
    asyncio.run(handled[1](event={"type": "ADDED", "object": child}))
    assert asked == [Key("mine", "theirs")]


@pytest.mark.parametrize(
    "name", ["../../namespaces/theirs/configmaps/x", "..", "x/../../y", "x?watch=1", "%2e%2e", "X", ""]
)
def test_a_name_that_leads_elsewhere_is_not_asked_for(name):
    """status.config is read back from the object; who may write it must not lead the operator's rights elsewhere."""
    api = Api(lambda: Connection("http://127.0.0.1:9", None, verify=True), lambda *_: pytest.fail("it was asked"))
    with pytest.raises(ApiError, match="is no name"):
        asyncio.run(api.get("ConfigMap", "mine", name))


def rules():
    """The operator's; the other roles are aggregated to those of a namespace's users and bound to nobody."""
    bound = {made["roleRef"]["name"] for made in INSTALL if made["kind"].endswith("RoleBinding")}
    roles = [made for made in INSTALL if made["kind"] in ("ClusterRole", "Role")]
    return [rule for role in roles if role["metadata"]["name"] in bound for rule in role["rules"]]


def test_the_operator_may_not_read_secrets_run_things_in_pods_or_give_rights():
    forbidden = {"*", "secrets", "serviceaccounts", "serviceaccounts/token", "pods/exec", "pods/attach", "nodes"}
    for rule in rules():
        assert not forbidden & {*rule["apiGroups"], *rule["resources"]}, rule
        assert not {"*", "escalate", "bind", "impersonate"} & {*rule["verbs"]}, rule
        assert "rbac.authorization.k8s.io" not in rule["apiGroups"]


def test_the_operators_rights_are_for_the_kinds_that_it_speaks_of():
    granted = {resource.partition("/")[0] for rule in rules() for resource in rule["resources"]}
    watched_for = {"customresourcedefinitions"}
    assert granted - watched_for == {plural for _, plural in KINDS.values()}
    assert "Secret" not in KINDS


def test_the_operator_never_changes_a_specification():
    for rule in rules():
        if "llm360runs" in rule["resources"]:
            assert set(rule["verbs"]) == {"get", "list", "watch"}
        assert "update" not in rule["verbs"]
        assert rule["resources"] == ["llm360runs/status"] or "patch" not in rule["verbs"]
