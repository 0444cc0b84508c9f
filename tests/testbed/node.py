"""A node: containerd, kubelet and kube-proxy in its network namespace and control group."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from testbed import images, pki, pruning
from testbed.build import program
from testbed.control_plane import kubeconfig
from testbed.errors import TestbedError
from testbed.layout import DISKS, DNS_IP, DOMAIN, GPU, PODS, REGISTRY, STATE, Node
from testbed.process import kill, make_group, mounts_below, run, start, wait_until

DISK_BYTES = 12 << 30
"""Size of a node's disk for its pods' own files; a sparse file, so that only what is written takes room."""


def disk(name: str) -> Path:
    """Folder of a disk of its own, which a fault may fill."""
    return DISKS / name


def make_disk(name: str, size: int = DISK_BYTES) -> None:
    """Make and mount a disk."""
    file, folder = DISKS / f"{name}.img", disk(name)
    folder.mkdir(parents=True)
    with file.open("wb") as image:
        image.truncate(size)
    run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=1,lazy_journal_init=1", "-m", "0", file])
    run(["mount", "-o", "loop,discard", file, folder])


def write_configuration(node: Node) -> None:
    """Write what containerd, its network plugins, kubelet and kube-proxy read."""
    for folder in (node.folder / "net", node.images, node.folder / "certs.d" / REGISTRY):
        folder.mkdir(parents=True, exist_ok=True)
    hosts = f'[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'
    (node.folder / "certs.d" / REGISTRY / "hosts.toml").write_text(hosts)
    (node.folder / "net" / "10-testbed.conflist").write_text(json.dumps(_network(node), indent=1))
    (node.folder / "containerd.toml").write_text(_containerd(node))
    (node.folder / "kubelet.json").write_text(json.dumps(_kubelet(node), indent=1))
    (STATE / "resolv.conf").write_text("")  # a pod that asks for its node's names gets none


def _network(node: Node) -> dict[str, object]:
    ranges = {"type": "host-local", "dataDir": str(node.folder / "net-leases"), "ranges": [[{"subnet": node.pods}]]}
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "hairpinMode": True,
        "ipam": {**ranges, "routes": [{"dst": "0.0.0.0/0"}]},
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": "testbed", "plugins": [bridge, ports]}


def _containerd(node: Node) -> str:
    # restrict_oom_score_adj: a machine that is itself a container may not lower the score, and runc would die of it.
    # discard_unpacked_layers: an unpacked image's archive is never read again; the trainer's is some 3 GB.
    return f"""version = 2
root = "{node.images}"
state = "{node.folder / "containerd"}"
oom_score = 0
[grpc]
address = "{node.socket}"
[ttrpc]
address = "{node.socket}.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.reference("pause")}"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
max_concurrent_downloads = 4
[plugins."io.containerd.grpc.v1.cri".containerd]
discard_unpacked_layers = true
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{node.folder / "net"}"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{node.folder / "certs.d"}"
"""


def _kubelet(node: Node) -> dict[str, object]:
    config: dict[str, object] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": node.ip,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(pki.path("ca", "crt"))},
        },
        "authorization": {"mode": "AlwaysAllow"},  # of those that the authority signed for: the API server
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.group}",
        "clusterDNS": [DNS_IP],
        "clusterDomain": DOMAIN,
        "containerRuntimeEndpoint": f"unix://{node.socket}",
        "enforceNodeAllocatable": [],
        # What the machine's disk has left says nothing of the node's own disk, which a fault may fill.
        "evictionHard": {"memory.available": "200Mi", "nodefs.available": "3%", "imagefs.available": "1Gi"},
        "failSwapOn": False,
        "failCgroupV1": False,
        "healthzBindAddress": "127.0.0.1",
        "imageGCHighThresholdPercent": 100,  # the cache is kept on purpose
        "nodeStatusUpdateFrequency": "4s",
        "podLogsDir": str(node.folder / "pod-logs"),
        "resolvConf": str(STATE / "resolv.conf"),
        "serializeImagePulls": False,
    }
    if node.tainted:
        config["registerWithTaints"] = [{"key": GPU, "value": "present", "effect": "NoSchedule"}]
    return config


def start_containerd(node: Node) -> None:
    """Start containerd, without what an earlier cluster left in it."""
    _start_containerd(node)
    if left := _ctr(node, "containers", "list", "--quiet").split():
        _ctr(node, "containers", "delete", *left)
        kill(f"{node.group}/system/{_name(node, 'containerd')}")
        _start_containerd(node)


def remove_images(node: Node, wanted: Sequence[str]) -> None:
    """Remove the pulled images that have none of the wanted names; containerd must run, and no pod."""
    rows = [line.split() for line in _ctr(node, "images", "list").splitlines()[1:]]
    if gone := pruning.unused(rows, wanted):
        _ctr(node, "images", "remove", "--sync", *gone)


def restart(node: Node) -> None:
    """Start a node that lost its power: what was mounted or in memory is gone, what was on its disks is there."""
    for mount in reversed(mounts_below(node.folder)):
        run(["umount", "--lazy", mount])
    shutil.rmtree(node.folder / "containerd", ignore_errors=True)
    _start_containerd(node)
    start_kubelet(node)


def _start_containerd(node: Node) -> None:
    name = _name(node, "containerd")
    group = f"{node.group}/system"
    start(name, ["containerd", "--config", node.folder / "containerd.toml"], group=group, namespace=node.namespace)
    wait_until(lambda: node.socket.exists() and _answers(node), f"containerd of {node.name}", 30, log=name)


def _answers(node: Node) -> bool:
    try:
        _ctr(node, "version")
    except TestbedError:
        return False
    return True


def _ctr(node: Node, *arguments: str) -> str:
    return run(["ctr", "--address", node.socket, "--namespace", "k8s.io", *arguments])


def start_kubelet(node: Node) -> None:
    """Start kubelet and kube-proxy; the API server must be there."""
    make_group(node.group)
    group = f"{node.group}/system"
    kubelet = [
        program("kubernetes", "kubelet"),
        f"--config={node.folder / 'kubelet.json'}",
        f"--kubeconfig={kubeconfig(node.name)}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.ip}",
        f"--node-labels={','.join(node.labels)}",
        f"--root-dir={disk(node.name) / 'kubelet'}",
        f"--cert-dir={node.folder / 'kubelet-certificates'}",
    ]
    start(_name(node, "kubelet"), kubelet, group=group, namespace=node.namespace)
    proxy = [
        program("kubernetes", "kube-proxy"),
        f"--kubeconfig={kubeconfig('proxy')}",
        f"--hostname-override={node.name}",
        f"--cluster-cidr={PODS}",
        "--proxy-mode=iptables",
        "--conntrack-max-per-core=0",  # the table is the machine's; a namespace may not resize it
        "--healthz-bind-address=127.0.0.1:10256",
        "--metrics-bind-address=127.0.0.1:10249",
    ]
    start(_name(node, "kube-proxy"), proxy, group=group, namespace=node.namespace)


def _name(node: Node, daemon: str) -> str:
    return f"{node.name}-{daemon}"
