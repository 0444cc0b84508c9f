"""etcd, API server, controller manager and scheduler: on the machine itself, heard on bridge and loopback alone."""

from __future__ import annotations

import json
import secrets
import ssl
import urllib.request
from pathlib import Path

from testbed import layout, pki
from testbed.build import program
from testbed.layout import GROUP, HOST_IP, NODES, STATE
from testbed.process import kill, start, wait_until

CONTROL = f"{GROUP}/control"
AUDIT_LOG = STATE / "audit" / "audit.jsonl"
USERS = {
    "admin": ("llm360-testbed-admin", "system:masters"),
    "controller-manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    **{node.name: (f"system:node:{node.name}", "system:nodes") for node in NODES},
}
"""Who speaks to the API server: its user and group there."""


def kubeconfig(user: str) -> Path:
    """The file by which one of USERS reaches the API server."""
    return layout.KUBECONFIG.parent / f"{user}.json"


def make_credentials() -> None:
    """A token and a kubeconfig for everyone in USERS."""
    layout.KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, (user, group) in USERS.items():
        token = secrets.token_urlsafe(24)
        lines.append(f'{token},{user},{name},"{group}"')
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "llm360-testbed",
            "clusters": [
                {
                    "name": "llm360-testbed",
                    "cluster": {"server": layout.API_URL, "certificate-authority": str(pki.path("ca", "crt"))},
                }
            ],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "llm360-testbed", "context": {"cluster": "llm360-testbed", "user": user}}],
        }
        path = kubeconfig(name)
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))
    tokens = STATE / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text("\n".join(lines) + "\n")


def start_all() -> None:
    """Start etcd and the API server, wait for it, then the two that work through it."""
    url = f"http://127.0.0.1:{layout.ETCD_PORT}"
    peer = f"http://127.0.0.1:{layout.ETCD_PEER_PORT}"
    etcd = [program("etcd", "server"), "--name=testbed", f"--data-dir={STATE / 'etcd'}", "--log-level=warn"]
    etcd += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
    etcd += [f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster=testbed={peer}"]
    # A test's cluster need not survive a power cut; syncing each write to the disk is what costs etcd its time.
    start("etcd", [*etcd, "--unsafe-no-fsync"], group=CONTROL)
    start_api_server()
    for name, arguments in (
        (
            "kube-controller-manager",
            [
                f"--root-ca-file={pki.path('ca', 'crt')}",
                f"--service-account-private-key-file={pki.path('service-account', 'key')}",
                "--use-service-account-credentials",
                f"--authentication-kubeconfig={kubeconfig('controller-manager')}",
                f"--authorization-kubeconfig={kubeconfig('controller-manager')}",
                f"--cluster-signing-cert-file={pki.path('ca', 'crt')}",
                f"--cluster-signing-key-file={pki.path('ca', 'key')}",
                f"--cert-dir={STATE / 'controller-manager'}",
                # Seconds, not minutes, until a lost node is known to be lost: still many heartbeats.
                "--node-monitor-grace-period=20s",
                f"--kubeconfig={kubeconfig('controller-manager')}",
            ],
        ),
        (
            "kube-scheduler",
            [
                f"--kubeconfig={kubeconfig('scheduler')}",
                f"--authentication-kubeconfig={kubeconfig('scheduler')}",
                f"--authorization-kubeconfig={kubeconfig('scheduler')}",
                f"--cert-dir={STATE / 'scheduler'}",
            ],
        ),
    ):
        common = ["--bind-address=127.0.0.1", "--leader-elect=false"]
        start(name, [program("kubernetes", name), *common, *arguments], group=CONTROL)


def start_api_server() -> None:
    """Start the API server and wait until it says it is ready."""
    policy = STATE / "audit" / "policy.json"
    policy.parent.mkdir(parents=True, exist_ok=True)
    rules = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"]}
    policy.write_text(json.dumps({**rules, "rules": [{"level": "Metadata"}]}))
    arguments = [
        f"--bind-address={HOST_IP}",
        f"--advertise-address={HOST_IP}",
        f"--secure-port={layout.API_PORT}",
        f"--service-cluster-ip-range={layout.SERVICES}",
        f"--etcd-servers=http://127.0.0.1:{layout.ETCD_PORT}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--token-auth-file={STATE / 'tokens.csv'}",
        f"--tls-cert-file={pki.path('apiserver', 'crt')}",
        f"--tls-private-key-file={pki.path('apiserver', 'key')}",
        f"--client-ca-file={pki.path('ca', 'crt')}",
        f"--kubelet-client-certificate={pki.path('kubelet-client', 'crt')}",
        f"--kubelet-client-key={pki.path('kubelet-client', 'key')}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-issuer=https://kubernetes.default.svc.{layout.DOMAIN}",
        f"--service-account-key-file={pki.path('service-account', 'key')}",
        f"--service-account-signing-key-file={pki.path('service-account', 'key')}",
        # The API server is not in the pods' network: it finds webhooks and extension servers by their pods.
        "--enable-aggregator-routing=true",
        f"--requestheader-client-ca-file={pki.path('ca', 'crt')}",
        "--requestheader-allowed-names=aggregator",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki.path('aggregator', 'crt')}",
        f"--proxy-client-key-file={pki.path('aggregator', 'key')}",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={AUDIT_LOG}",
    ]
    start("kube-apiserver", [program("kubernetes", "kube-apiserver"), *arguments], group=CONTROL)
    wait_until(is_api_ready, "the API server", 60, log="kube-apiserver")


def kill_api_server() -> None:
    """Kill the API server, as a crash would."""
    kill(f"{CONTROL}/kube-apiserver")


def is_api_ready() -> bool:
    """Whether the API server answers that it is ready."""
    try:
        trust = ssl.create_default_context(cafile=str(pki.path("ca", "crt")))
        # The address is our own constant; no other scheme can come in.
        with urllib.request.urlopen(f"{layout.API_URL}/readyz", context=trust, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:  # no certificate yet, no connection, no answer in time
        return False
