"""Says what a pod reaches: names, a service, the API server, the S3 server; and that nothing outside is reached."""

import json
import socket
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

IDENTITY = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 20.0


def reach(url, token=None, authority=None):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    context = ssl.create_default_context(cafile=authority) if authority else None
    try:
        with urllib.request.urlopen(request, timeout=3, context=context) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def soon(call, *arguments):
    """The rules of a new service take a moment to reach every node."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return call(*arguments)
        except OSError as error:
            if time.monotonic() > deadline:
                return repr(error)
        time.sleep(0.2)


def outside():
    try:
        socket.create_connection(("192.0.2.1", 80), timeout=2)
    except OSError as error:
        return type(error).__name__
    return "reached"


token = (IDENTITY / "token").read_text()
found = {
    "name": soon(socket.gethostbyname, "s3.llm360-testbed.svc.cluster.local"),
    "short_name": soon(socket.gethostbyname, "kubernetes.default"),
    "api": soon(reach, "https://kubernetes.default.svc/api", token, str(IDENTITY / "ca.crt")),
    "s3": soon(reach, "http://s3.llm360-testbed:8333/healthz"),
    "s3_without_key": soon(reach, "http://s3.llm360-testbed:8333/"),
    "prometheus": soon(reach, "http://prometheus.llm360-testbed:9090/-/ready"),
    "outside": outside(),
}
print(json.dumps(found))
