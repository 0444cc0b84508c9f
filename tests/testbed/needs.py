"""What a machine must have to run the testbed; what Debian can install is installed."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed.build import COMPONENTS, Say
from testbed.errors import TestbedError
from testbed.layout import CACHE
from testbed.process import run

PACKAGES = {
    "containerd": "containerd",
    "runc": "runc",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
    "docker-registry": "docker-registry",
    "ip": "iproute2",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "nsenter": "util-linux",
    "mkfs.ext4": "e2fsprogs",
    "openssl": "openssl",
    "sysctl": "procps",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""Program, and the Debian package that brings it."""
COLD_DISK, WARM_DISK = 45 << 30, 12 << 30
"""Bytes: Go's caches 9 GB, programs 0.8, images with the trainer's 30; and what one cluster's life takes."""
MEMORY = 8 << 30
POLICY = Path("/usr/sbin/policy-rc.d")


def missing() -> str | None:
    """One sentence that says why the testbed cannot run here, or None where it can."""
    if platform.system() != "Linux":
        return f"the testbed needs Linux (network namespaces, control groups); this is {platform.system()}"
    if os.geteuid() != 0:
        return "the testbed needs root (it makes network namespaces and mounts); run it with sudo"
    if absent := [program for program in PACKAGES if not _has(program)]:
        packages = " ".join(sorted({PACKAGES[program] for program in absent}))
        if shutil.which("apt-get") is None:
            return f"{', '.join(absent)} are not installed, and only Debian's apt-get is known here: install {packages}"
    CACHE.mkdir(parents=True, exist_ok=True)
    needed = WARM_DISK if is_warm() else COLD_DISK
    free = shutil.disk_usage(CACHE).free
    if free < needed:
        found = f"{free >> 30} GiB are free; free some, or move it by LLM360_TESTBED_CACHE"
        return f"the testbed needs {needed >> 30} GiB of disk at {CACHE}; {found}"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < MEMORY:
        return f"the testbed needs {MEMORY >> 30} GiB of memory; this machine has {memory >> 30}"
    return None


def is_warm() -> bool:
    """Whether the programs are built already."""
    return all(each.is_built() for each in COMPONENTS)


def _has(program: str) -> bool:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is not None


def install(say: Say) -> None:
    """Install the Debian packages that are missing.

    Raises:
        TestbedError: the machine cannot run the testbed, or apt-get fails.
    """
    if reason := missing():
        raise TestbedError(reason)
    packages = sorted({package for program, package in PACKAGES.items() if not _has(program)})
    packages += [] if _has_venv() else ["python3-venv"]
    if not packages:
        return
    say(f"installing {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    with _nothing_starts():
        run(["apt-get", "update", "-qq"], env=quiet)
        run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], env=quiet)


def _has_venv() -> bool:
    try:
        import ensurepip  # noqa: F401  Debian ships venv's heart apart
    except ImportError:
        return False
    return True


@contextmanager
def _nothing_starts() -> Iterator[None]:
    """Keep the packages' own services from starting: the testbed starts its own, inside its own walls."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
