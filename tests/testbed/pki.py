"""Keys and certificates of one cluster, made by openssl; they live as long as it does."""

from __future__ import annotations

from pathlib import Path

from testbed.layout import API_SERVICE_IP, DOMAIN, HOST_IP, STATE
from testbed.process import run

FOLDER = STATE / "pki"
DAYS = "30"
API_NAMES = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DOMAIN}")


def path(name: str, kind: str) -> Path:
    """File of a certificate (`crt`) or key (`key`)."""
    return FOLDER / f"{name}.{kind}"


def make() -> None:
    """An authority, the API server's certificate, those it shows to kubelets and to extension servers, and one key."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    subject = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    authority = ["openssl", "req", "-x509", "-days", DAYS, "-subj", "/CN=llm360-testbed", *subject]
    run([*authority, "-keyout", path("ca", "key"), "-out", path("ca", "crt")])
    names = ",".join([f"IP:{HOST_IP}", f"IP:{API_SERVICE_IP}", *(f"DNS:{name}" for name in API_NAMES)])
    _sign("apiserver", "/CN=kube-apiserver", f"subjectAltName={names}\nextendedKeyUsage=serverAuth\n")
    _sign("kubelet-client", "/O=system:masters/CN=kube-apiserver-kubelet-client", "extendedKeyUsage=clientAuth\n")
    _sign("aggregator", "/CN=aggregator", "extendedKeyUsage=clientAuth\n")
    run(["openssl", "genrsa", "-out", path("service-account", "key"), "2048"])


def _sign(name: str, subject: str, extensions: str) -> None:
    path(name, "ext").write_text(extensions)
    request = ["openssl", "req", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    run([*request, "-subj", subject, "-keyout", path(name, "key"), "-out", path(name, "csr")])
    authority = ["-CA", path("ca", "crt"), "-CAkey", path("ca", "key"), "-CAcreateserial"]
    issue = ["openssl", "x509", "-req", "-days", DAYS, "-in", path(name, "csr"), *authority]
    run([*issue, "-extfile", path(name, "ext"), "-out", path(name, "crt")])
