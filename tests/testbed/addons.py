"""What runs in the cluster: CoreDNS, KubeRay, Kueue, the S3 server, Prometheus with Alertmanager."""

from __future__ import annotations

import json
import os
import string
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from testbed import build, images, layout
from testbed.kubectl import Object, apply_text, find, is_ready_deployment, kubectl, wait_for_deployment
from testbed.layout import NODES, PACKAGE, STATE
from testbed.node import disk
from testbed.process import run, wait_until

MANIFESTS = PACKAGE / "manifests"
READY_SECONDS = 120.0
CONTAINER = "/spec/template/spec/containers/0"


class Part(NamedTuple):
    """A part's Deployment, its namespace, and the labels of its pods."""

    deployment: str
    namespace: str
    selector: str


PARTS = {
    "coredns": Part("coredns", "kube-system", "k8s-app=kube-dns"),
    "kuberay": Part("kuberay-operator", "kuberay-system", "app.kubernetes.io/name=kuberay"),
    "kueue": Part("kueue-controller-manager", "kueue-system", "app.kubernetes.io/name=kueue"),
    "s3": Part("s3", "llm360-testbed", "app.kubernetes.io/name=s3"),
    "prometheus": Part("prometheus", "llm360-testbed", "app.kubernetes.io/name=prometheus"),
}


def manifests() -> tuple[str, ...]:
    """All parts as YAML, those first whose pods take longest to be ready; needs no API server."""
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(lambda render: render(), (_kuberay, _kueue, _own, _prometheus_crds)))


def install(rendered: tuple[str, ...]) -> None:
    """Apply all parts, side by side, for an apply of large CRDs costs seconds; they become ready by themselves."""
    apply_text((MANIFESTS / "namespaces.yaml").read_text())
    with ThreadPoolExecutor() as pool:
        for each in [pool.submit(apply_text, manifest) for manifest in rendered]:
            each.result()


def _own() -> str:
    values = {
        "coredns_image": images.reference("coredns"),
        "s3_image": images.reference(images.S3),
        "prometheus_image": images.reference("prometheus"),
        "alertmanager_image": images.reference("alertmanager"),
        "dns_ip": layout.DNS_IP,
        "domain": layout.DOMAIN,
        "s3_folder": str(disk("s3")),
        "s3_access_key": layout.S3_ACCESS_KEY,
        "s3_secret_key": layout.S3_SECRET_KEY,
    }
    paths = (MANIFESTS / f"{part}.yaml" for part in ("coredns", "s3", "prometheus"))
    return "\n---\n".join(string.Template(path.read_text()).substitute(values) for path in paths)


def _kuberay() -> str:
    # Its own limit, a tenth of a processor, makes it slow to answer on a machine this small.
    limit = {"op": "replace", "path": f"{CONTAINER}/resources/limits/cpu", "value": "1"}
    return _published("kuberay", "kuberay-operator", [limit], namespace="kuberay-system")


def _kueue() -> str:
    changes = [
        {"op": "replace", "path": f"{CONTAINER}/imagePullPolicy", "value": "IfNotPresent"},
        {"op": "replace", "path": f"{CONTAINER}/resources/requests/cpu", "value": "50m"},
    ]
    return _published("kueue", "kueue-controller-manager", changes)


def _published(part: str, deployment: str, changes: list[Object], **more: str) -> str:
    """The manifests that a part's Go module carries, with our image and a few changes to its Deployment."""
    base = build.module_folder(part, build.component(part).module or "") / "config" / "default"
    overlay = STATE / "kustomize" / part
    overlay.mkdir(parents=True, exist_ok=True)
    image = {"op": "replace", "path": f"{CONTAINER}/image", "value": images.reference(part)}
    patch = {"target": {"kind": "Deployment", "name": deployment}, "patch": json.dumps([image, *changes])}
    settings = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(base, overlay.resolve())],  # an absolute path is refused
        "patches": [patch],
        **more,
    }
    (overlay / "kustomization.yaml").write_text(json.dumps(settings, indent=1))
    return run([build.kubectl(), "kustomize", overlay])


def _prometheus_crds() -> str:
    module = build.module_folder("prometheus-operator", "github.com/prometheus-operator/prometheus-operator")
    crds = sorted((module / "example" / "prometheus-operator-crd").glob("*.yaml"))
    return "\n---\n".join(path.read_text() for path in crds)


def patch_gpus() -> None:
    """Give each node its GPUs, in name: a real extended resource that nothing stands behind."""
    path = f"/status/capacity/{layout.GPU.replace('/', '~1')}"
    patch = json.dumps([{"op": "add", "path": path, "value": str(layout.GPUS_PER_NODE)}])
    for node in NODES:
        kubectl("patch", "node", node.name, "--subresource=status", "--type=json", f"--patch={patch}")


def wait_until_ready() -> None:
    """Wait for every part's pods."""
    for part in PARTS.values():
        wait_for_deployment(part.deployment, part.namespace, READY_SECONDS)


def are_ready() -> dict[str, bool]:
    """Which parts are ready."""
    return {name: is_ready_deployment(part.deployment, part.namespace) for name, part in PARTS.items()}


def pod_address(name: str) -> str:
    """IP of a part's running pod; the machine has a route to it.

    Raises:
        TestbedError: there is none within a minute.
    """
    part = PARTS[name]
    addresses: list[str] = []

    def is_found() -> bool:
        pods = find("pods", part.namespace, part.selector)
        addresses[:] = [pod["status"]["podIP"] for pod in pods if pod["status"].get("podIP")]
        return bool(addresses)

    wait_until(is_found, f"a pod of {name}", 60)
    return addresses[0]
