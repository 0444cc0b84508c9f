"""What a pod of the testbed reaches, where it may run, and how soon a changed image runs."""

from __future__ import annotations

import json
import shutil
import time
import urllib.request
from pathlib import Path

import pytest
from testbed import addons, audit, images, kubectl
from testbed.fixtures import Testbed, pod
from testbed.layout import GPU, GPUS_PER_NODE, NODES
from testbed.process import wait_until

PROBE = Path(__file__).parent / "probe"


@pytest.mark.parametrize("node", [node.name for node in NODES])
def test_a_pod_reaches_names_services_the_api_and_s3_and_nothing_outside(testbed, namespace, probe_image, node):
    found = json.loads(testbed.run_to_end(pod("probe", namespace, probe_image, node)))
    s3 = kubectl.get("service", "s3", "llm360-testbed")
    assert found == {
        "name": s3["spec"]["clusterIP"],
        "short_name": "10.96.0.1",
        "api": 200,
        "s3": 200,
        "s3_without_key": 403,
        "prometheus": 200,
        "outside": "OSError",
    }


def test_the_machine_reaches_s3_and_prometheus(testbed: Testbed):
    for url in (f"{testbed.s3_endpoint}/healthz", f"{testbed.prometheus}/-/ready"):
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert answer.status == 200


def unscheduled(name: str, namespace: str) -> str:
    """Why the scheduler leaves the pod."""
    found = kubectl.get("pod", name, namespace) or {}
    conditions = {each["type"]: each for each in found.get("status", {}).get("conditions", [])}
    return conditions.get("PodScheduled", {}).get("message", "")


def test_gpus_selectors_and_taints_are_real(namespace, probe_image):
    fits = {"resources": {"limits": {GPU: str(GPUS_PER_NODE)}}}
    too_many = {"resources": {"limits": {GPU: str(GPUS_PER_NODE + 1)}}}
    for name, node, container in (
        ("fits", "node0", fits),
        ("too-many", "node0", too_many),
        ("no-toleration", None, {}),
    ):
        made = pod(name, namespace, probe_image, node, **container)
        if node is None:
            made["spec"]["nodeSelector"] = {"kubernetes.io/hostname": "node0"}
        kubectl.apply([made])
    wait_until(lambda: (kubectl.get("pod", "fits", namespace) or {})["spec"].get("nodeName") == "node0", "a node", 30)
    wait_until(lambda: f"Insufficient {GPU}" in unscheduled("too-many", namespace), "a refusal for want of GPUs", 30)
    wait_until(lambda: "untolerated taint" in unscheduled("no-toleration", namespace), "a refusal for the taint", 30)


def test_a_changed_source_costs_its_last_layer(testbed, namespace, probe_image, tmp_path, capsys):
    """The sentence of the changed source is printed by a pod less than 20 s after the change."""
    shutil.copytree(PROBE, tmp_path, dirs_exist_ok=True)
    (tmp_path / "probe.py").write_text(f'print("changed at {time.time()}")\n')
    began = time.monotonic()
    image = testbed.load("probe", file=tmp_path / "Dockerfile", context=tmp_path)
    said = testbed.run_to_end(pod("changed", namespace, image, "node1"))
    seconds = time.monotonic() - began
    assert image != probe_image
    assert said.startswith("changed at")
    with capsys.disabled():
        print(f"\na changed source runs in a pod after {seconds:.1f} s")
    assert seconds < 20


def test_an_image_keeps_nothing_of_this_machine(testbed, probe_image):
    settings = json.loads(images.buildah("inspect", "--type", "image", probe_image))["OCIv1"]["config"]
    assert not any("CERT" in variable or "BUNDLE" in variable for variable in settings["Env"])


def test_every_request_is_in_the_audit_log(testbed):
    users = {request.user for request in audit.requests()}
    assert users >= {f"system:serviceaccount:{addons.PARTS['kueue'].namespace}:kueue-controller-manager"}
