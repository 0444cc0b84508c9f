"""An API server as far as the plugin asks it: discovery, runs, pods and their logs; real kubectl speaks to it."""

from __future__ import annotations

import copy
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from testbed import build

from llm360.spec.crd import GROUP, PLURAL, VERSION

RUNS = f"/apis/{GROUP}/{VERSION}/namespaces/research/{PLURAL}"
PODS = "/api/v1/namespaces/research/pods"
DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [
            {
                "name": GROUP,
                "versions": [{"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION}],
                "preferredVersion": {"groupVersion": f"{GROUP}/{VERSION}", "version": VERSION},
            }
        ],
    },
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [
            {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]},
            {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod", "verbs": ["get"]},
        ],
    },
    f"/apis/{GROUP}/{VERSION}": {
        "kind": "APIResourceList",
        "groupVersion": f"{GROUP}/{VERSION}",
        "resources": [
            {
                "name": PLURAL,
                "singularName": "llm360run",
                "namespaced": True,
                "kind": "LLM360Run",
                "verbs": ["get", "list", "patch"],
            }
        ],
    },
}  # fmt: skip


class Cluster:
    """Objects by path; `after` are changes that happen behind so many reads of a run."""

    def __init__(self):
        self.objects, self.logs, self.patches, self.after, self.reads = {}, {}, [], {}, 0
        self.has_crd = True
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def put_run(self, name="amber", status=None, **spec):
        metadata = {"name": name, "namespace": "research", "generation": 1, "resourceVersion": "1"}
        spec = {"preset": "amber-tiny", "storage": {"uri": "s3://releases/amber"}} | spec
        self.objects[f"{RUNS}/{name}"] = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "LLM360Run",
            "metadata": metadata,
            "spec": spec,
            **({"status": copy.deepcopy(status)} if status else {}),
        }
        return self.objects[f"{RUNS}/{name}"]

    def put_pod(self, name, container, log, created="2026-11-22T12:00:00Z", **labels):
        labels = {"llm360.ai/run": "amber"} | {key.replace("_", "-"): value for key, value in labels.items()}
        self.objects[f"{PODS}/{name}"] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "research", "creationTimestamp": created, "labels": labels},
            "spec": {"containers": [{"name": container}]},
            "status": {"phase": "Running"},
        }
        self.logs[f"{PODS}/{name}/log"] = log

    def answer(self, path, query):
        """Status and JSON value, or text, of a GET."""
        if path in DISCOVERY and (self.has_crd or GROUP not in path):
            value = DISCOVERY[path]
            return 200, value if self.has_crd or path != "/apis" else value | {"groups": []}
        if path in self.logs:
            return 200, self.logs[path]
        if path in self.objects:
            self.reads += path.startswith(RUNS)
            for change in self.after.pop(self.reads, ()):
                change(self.objects[path])
            return 200, self.objects[path]
        if path.endswith((f"/{PLURAL}", "/pods")):
            wanted = [part.split("=") for part in query.get("labelSelector", [""])[0].split(",") if part]
            items = [
                value
                for key, value in self.objects.items()
                if key.startswith(f"{path}/")
                and all(value["metadata"].get("labels", {}).get(label) == text for label, text in wanted)
            ]
            kind, version = ("PodList", "v1") if path.endswith("/pods") else ("LLM360RunList", f"{GROUP}/{VERSION}")
            return 200, {"kind": kind, "apiVersion": version, "metadata": {}, "items": items}
        name = path.rsplit("/", 1)[-1]
        status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
        return 404, status | {"message": f'{PLURAL}.{GROUP} "{name}" not found', "details": {"name": name}}


def handler(cluster):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            self._send(*cluster.answer(url.path, parse_qs(url.query)))

        def do_PATCH(self):
            patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            cluster.patches.append((urlsplit(self.path).path, self.headers["Content-Type"], patch))
            found = cluster.objects[urlsplit(self.path).path]
            found["spec"] |= patch["spec"]
            self._send(200, found)

        def _send(self, status, value):
            is_text = isinstance(value, str)
            body = value.encode() if is_text else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if is_text else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster that kubectl's present context leads to, namespace `research`."""
    program = build.kubectl() if build.kubectl().exists() else shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is neither installed nor built by the testbed")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "kubectl").symlink_to(program)
    made = Cluster()
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": made.url}}],
        "users": [{"name": "me", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me", "namespace": "research"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps there what a server knows
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    yield made
    made.server.shutdown()
    made.server.server_close()
