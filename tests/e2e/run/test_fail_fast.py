"""What is wrong is said before any worker is asked for, in a sentence that says what to do."""

from __future__ import annotations

import json

import pytest
from synthetic.careless import careless_server
from testbed import kubectl
from testbed.errors import TestbedError
from testbed.layout import CHECKOUT, HOST_IP, REGISTRY
from testbed.process import wait_until

SAID_SECONDS = 300
WITHOUT_RECIPE = {"preset": "pythia-14m", "cluster": {"workers": {"replicas": 1, "gpus": 1}}}
WRONG = {
    "secret": ({"storage": {"secretRef": {"name": "no-such-secret"}}}, "SecretMissing", "create what it names"),
    "key": ({"storage": {"secretRef": {"name": "wrong-key"}}}, "CredentialsRefused", "AWS_ACCESS_KEY_ID"),
    "bucket": ({"storage": {"uri": "s3://no-such-bucket/run"}}, "BucketMissing", "no-such-bucket"),
    "endpoint": ({"storage": {"endpoint": "http://nothing.nowhere:8333"}}, "StorageUnavailable", "nothing.nowhere"),
    "careless": ({"storage": {"endpoint": "CARELESS"}}, "ConditionalCreateUnsupported", "If-None-Match"),
    "data": ({"data": {"uri": "s3://BUCKET/nowhere"}, **WITHOUT_RECIPE}, "DataMissing", "manifest.json"),
    "rows": ({"data": {"uri": "s3://BUCKET/data"}, "training": {"sequenceLength": 64}}, "RowLengthDiffers", "129"),
    "tokenizer": (
        {"data": {"uri": "s3://BUCKET/data"}, "tokenizer": {"digest": "sha256:" + "0" * 64}},
        "TokenizerDiffers",
        "sha256:0000",
    ),
    "batch": ({"parallelism": {"microBatch": 64}}, "InvalidSpec", "spec.parallelism.microBatch"),
    "image": ({"cluster": {"image": f"{REGISTRY}/llm360/no-such-image:1"}}, "ImagePullFailed", "no-such-image"),
    "node": ({"cluster": {"workers": {"nodeSelector": {"pool": "none"}}}}, "Unschedulable", "cluster.workers"),
}
"""What is changed in a run that would be right, the reason of its condition Ready, and words of that one's message."""
SEEN_BY_PODS = {"image", "node"}
"""What only Kubernetes can see, once the run's pods are there."""


@pytest.fixture
def data(bucket, llm360, tmp_path):
    """Prepared rows of 129 ids, in the bucket."""
    text, tokenizer = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    text.write_text((CHECKOUT / "LICENSE").read_text())
    llm360("tokenizer", "train", "--source", f"text={text}", "--vocab-size", "300", "--out", tokenizer)
    rows = ["--tokenizer", tokenizer, "--sequence-length", "128", "--chunks", "2", "--seed", "1"]
    llm360("data", "prepare", "--source", f"text={text}", *rows, "--out", f"s3://{bucket}/data")


@pytest.fixture
def careless():
    """Where pods reach an S3 server that ignores conditions."""
    with careless_server(HOST_IP, {}) as endpoint:
        yield endpoint


@pytest.mark.takes(minutes=8)
def test_what_is_wrong_is_said_before_any_worker_is_asked_for(
    operator, data, bucket, careless, make_run, namespace, make_secret
):
    make_secret("wrong-key", "wrong")
    runs = {name: make_run(name, **changes) for name, (changes, _, _) in WRONG.items()}
    for run in runs.values():
        text = json.dumps(run.manifest).replace("s3://BUCKET", f"s3://{bucket}").replace("CARELESS", careless)
        run.manifest = json.loads(text)
        run.apply()
    for name, (_, reason, words) in WRONG.items():
        runs[name].wait_for_reason(reason, SAID_SECONDS)
        assert words in runs[name].message(), f"{name}: {runs[name].message()}"
    events = kubectl.find("events", namespace)
    warnings = {(each["involvedObject"]["name"], each["reason"]) for each in events if each["type"] == "Warning"}
    assert warnings >= {(name, reason) for name, (_, reason, _) in WRONG.items()}
    clusters = {each["metadata"]["name"] for each in kubectl.find("rayclusters.ray.io", namespace)}
    assert clusters == SEEN_BY_PODS
    for run in runs.values():
        run.remove()


@pytest.mark.takes(minutes=3)
def test_what_the_namespace_forbids_is_said_and_tried_again(operator, make_run, namespace):
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none", "namespace": namespace}}
    kubectl.apply([quota | {"spec": {"hard": {"count/jobs.batch": "0"}}}])
    run = make_run("guest")
    wait_until(lambda: "used" in (kubectl.get("resourcequota", "none", namespace) or {}).get("status", {}), "quota", 60)
    run.apply()
    run.wait_for_reason("Refused", SAID_SECONDS)
    assert "count/jobs.batch" in run.message()
    assert "quota" in run.message()
    kubectl.kubectl("delete", "resourcequota", "none", f"--namespace={namespace}")
    run.wait(lambda: run.status["phase"] == "Preflight", "the preflight", SAID_SECONDS)
    run.remove()


@pytest.mark.parametrize(
    ("section", "value", "sentence"),
    [
        ("trainning", {}, "unknown field .*trainning"),
        ("training", {"batchSize": 0}, "batchSize.* should be greater than or equal to 1"),
        ("parallelism", {"shard": "some"}, "parallelism"),
        ("storage", {}, "storage.uri"),
    ],
)
def test_the_api_server_refuses_what_the_schema_forbids(operator, make_run, section, value, sentence):
    run = make_run("wrong")
    run.manifest["spec"][section] = value
    with pytest.raises(TestbedError, match=sentence):
        run.apply()


def test_identity_is_immutable_once_it_is_pinned(operator, make_run):
    run = make_run("pinned", storage={"secretRef": {"name": "no-such-secret"}})
    run.apply()
    run.wait(lambda: run.status.get("configDigest"), "the digest of the configuration", SAID_SECONDS)
    with pytest.raises(TestbedError, match="identity"):
        run.patch({"training": {"seed": 2}})
    run.patch({"recovery": {"maxAttempts": 3}})
    run.delete()


def test_kubectl_explains_every_section(operator):
    said = kubectl.kubectl("explain", "llm360run.spec.training.schedule", "--recursive")
    assert "warmupSteps" in said
    assert "DESCRIPTION" in kubectl.kubectl("explain", "llm360run.spec.recovery.maxAttempts")
