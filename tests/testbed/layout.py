"""Every name, address and folder of the testbed, in one place.

    the machine ── bridge llm360br 198.18.0.1 ── etcd, API server, controller manager, scheduler, image registry
                        │                │
                 namespace llm360-node0  namespace llm360-node1     containerd, kubelet, kube-proxy in each
                 198.18.0.10             198.18.0.11
                 pods 10.244.0.0/24      pods 10.244.1.0/24         services 10.96.0.0/16

198.18.0.0/15 is set aside for tests of networks (RFC 2544): it meets nobody's real addresses. No route leads out of the
nodes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent.parent
"""The project that this testbed belongs to; images are built from it."""

CACHE = Path(os.environ.get("LLM360_TESTBED_CACHE") or Path.home() / ".cache" / "llm360-testbed")
"""What is costly to make and survives `down`: programs, image layers, what the nodes pulled."""
STATE = Path("/var/lib/llm360-testbed")
"""One cluster's life; gone after `down`."""
LOCK = Path("/run/llm360-testbed.lock")
NAMESPACES = Path("/run/netns")
"""Where iproute2 keeps network namespaces: the first one of a machine makes it, and a mount on it."""
LOGS = STATE / "logs"
DISKS = STATE / "disks"
KUBECONFIG = STATE / "kubeconfig" / "admin.json"

BRIDGE = "llm360br"
HOST_IP = "198.18.0.1"
PODS = "10.244.0.0/16"
SERVICES = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"
DNS_IP = "10.96.0.10"
DOMAIN = "cluster.local"
API_PORT = 6443
API_URL = f"https://{HOST_IP}:{API_PORT}"
ETCD_PORT, ETCD_PEER_PORT = 12379, 12380
REGISTRY = f"{HOST_IP}:15000"
"""Where images are pushed to and pulled from; only this machine and the nodes reach it."""

GROUP = "llm360-testbed"
"""Control group under which every process of the testbed lives: what is in it is the testbed's, nothing else is."""

GPU = "nvidia.com/gpu"
GPUS_PER_NODE = 8
S3_ACCESS_KEY, S3_SECRET_KEY = "llm360-testbed", "not-a-secret-of-anyone"


@dataclass(frozen=True)
class Node:
    """A node: a network namespace with its own containerd, kubelet and kube-proxy."""

    index: int
    labels: tuple[str, ...]
    tainted: bool
    """Whether only pods that tolerate GPUs may run here."""

    @property
    def name(self) -> str:
        return f"node{self.index}"

    @property
    def namespace(self) -> str:
        return f"llm360-{self.name}"

    @property
    def ip(self) -> str:
        return f"198.18.0.{10 + self.index}"

    @property
    def pods(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def link(self) -> str:
        """The host's end of the node's cable; interface names have at most 15 letters."""
        return f"llm360n{self.index}"

    @property
    def group(self) -> str:
        return f"{GROUP}/{self.name}"

    @property
    def folder(self) -> Path:
        return STATE / self.name

    @property
    def images(self) -> Path:
        """What containerd pulled; it stays, so that a large image is pulled once."""
        return CACHE / "nodes" / self.name

    @property
    def socket(self) -> Path:
        return self.folder / "containerd.sock"


NODES = (
    Node(0, ("llm360.ai/train=true",), tainted=True),
    Node(1, ("llm360.ai/train=true", "llm360.ai/eval=true"), tainted=False),
)


def node(name: str) -> Node:
    """The node of that name.

    Raises:
        KeyError: there is none.
    """
    return {each.name: each for each in NODES}[name]
