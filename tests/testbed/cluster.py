"""Up, down and status of the one testbed that a machine can have."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from testbed import addons, build, control_plane, images, needs, network, node, pki, pruning
from testbed.build import Say
from testbed.errors import TestbedError
from testbed.kubectl import condition, find
from testbed.layout import BRIDGE, CACHE, CHECKOUT, GROUP, LOCK, NODES, STATE, Node
from testbed.process import groups, kill, members, mounts_below, run, wait_until

OWNER = STATE / "owner.json"
NODE_SECONDS = 90.0
IMAGES = ("buildah", "registry", "nodes")
"""Folders of the cache that hold images: as built, as pushed, as pulled."""


@dataclass(frozen=True)
class Owner:
    """Whose testbed this is."""

    checkout: str
    pid: int
    since: str
    ready: bool = False

    def __str__(self) -> str:
        return f"the testbed of {self.checkout}, started {self.since} by process {self.pid}"


def owner() -> Owner | None:
    """Who started the testbed that is there, whole or in pieces; None where there is none."""
    if not OWNER.exists():
        return None
    try:
        return Owner(**json.loads(OWNER.read_text()))
    except (json.JSONDecodeError, TypeError):
        return Owner("an unknown checkout (killed while it wrote its name)", 0, "at an unknown time")


@contextmanager
def _locked() -> Iterator[None]:
    """One command at a time changes the testbed.

    Raises:
        TestbedError: another does; it is named.
    """
    with LOCK.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise TestbedError(f"another command is changing the testbed: {file.read().strip()}; wait for it") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} of {CHECKOUT}\n")
        file.flush()
        yield


def up(say: Say, *, force: bool = False) -> None:
    """Bring the testbed up, from whatever state the machine is in.

    Raises:
        TestbedError: this machine cannot run it, another checkout's is up, or a part does not come.
    """
    with _locked():
        found = owner()
        if found and found.ready and found.checkout == str(CHECKOUT) and is_whole():
            say(f"already up: {found}")
            return
        _refuse_anothers(found, force)
        needs.install(say)
        build.build_all(say)
        if found or leftovers():
            say("clearing away what an interrupted testbed left")
            _down()
        began = time.monotonic()
        _start(say)
        say(f"up in {time.monotonic() - began:.0f} s; KUBECONFIG={control_plane.kubeconfig('admin')}")


def _refuse_anothers(found: Owner | None, force: bool) -> None:
    if found and found.checkout != str(CHECKOUT) and members(GROUP) and not force:
        raise TestbedError(f"{found} is up, and a machine has room for one: `make cluster-down` there, or --force here")


def _start(say: Say) -> None:
    STATE.mkdir(parents=True, exist_ok=True)
    _own(ready=False)
    pki.make()
    control_plane.make_credentials()
    network.make()
    for name in (*(each.name for each in NODES), "s3"):
        node.make_disk(name)
    with ThreadPoolExecutor() as pool:
        control = pool.submit(control_plane.start_all)
        rendered = pool.submit(addons.manifests)
        kept = pruning.prune(say)
        images.start_registry()
        images.push_system_images(say)
        nodes = [pool.submit(_start_containerd, each, kept) for each in NODES]
        for started in (control, *nodes):
            started.result()
    for each in NODES:
        node.start_kubelet(each)
    addons.install(rendered.result())
    wait_until(are_nodes_ready, "both nodes", NODE_SECONDS, log="node0-kubelet")
    addons.patch_gpus()
    say("nodes are ready")
    addons.wait_until_ready()
    _own(ready=True)


def _start_containerd(each: Node, kept: Sequence[str]) -> None:
    node.write_configuration(each)
    node.start_containerd(each)
    node.remove_images(each, kept)


def _own(*, ready: bool) -> None:
    found = owner()
    since = found.since if ready and found else time.strftime("%Y-%m-%d %H:%M:%S")
    partial = OWNER.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(Owner(str(CHECKOUT), os.getpid(), since, ready))))
    partial.replace(OWNER)


def are_nodes_ready() -> bool:
    """Whether each node says it is ready."""
    ready = {each["metadata"]["name"] for each in find("nodes") if condition(each, "Ready")}
    return ready >= {each.name for each in NODES}


def is_whole() -> bool:
    """Whether every daemon runs and every part is ready."""
    return control_plane.is_api_ready() and are_nodes_ready() and all(addons.are_ready().values())


def down(say: Say, *, force: bool = False) -> None:
    """End the testbed, in whatever state it is, and leave nothing but the cache.

    Raises:
        TestbedError: it is another checkout's, or something does not go.
    """
    with _locked():
        _refuse_anothers(owner(), force)
        if not leftovers():
            say("nothing is up")
            return
        _down()
        if left := leftovers():
            raise TestbedError(f"left behind: {', '.join(left)}")
        say("down; the cache stays at " + str(CACHE))


def _down() -> None:
    kill(GROUP)
    for mount in reversed(mounts()):
        run(["umount", "--lazy", mount])
    for file in loops():
        run(["losetup", "--detach", file])
    network.remove()
    shutil.rmtree(STATE, ignore_errors=True)


def clean(say: Say, *, only_images: bool = False) -> None:
    """Remove the cache, or only its images, whose loss costs minutes: the programs take a quarter of an hour.

    Raises:
        TestbedError: a testbed that uses it is up.
    """
    with _locked():
        if left := leftovers():
            raise TestbedError(f"a testbed is up ({len(left)} things of it are here); `python -m testbed down` first")
        for folder in [CACHE / name for name in IMAGES] if only_images else [CACHE]:
            shutil.rmtree(folder, ignore_errors=True)
            say(f"removed {folder}")


def mounts() -> list[str]:
    """Mount points inside the testbed's folders, in the order they were made."""
    return mounts_below(STATE, CACHE)


def loops() -> list[str]:
    """Loop devices whose file is one of the testbed's disks."""
    files = Path("/sys/block").glob("loop*/loop/backing_file")
    return [f"/dev/{path.parent.parent.name}" for path in files if path.read_text().startswith(f"{STATE}/")]


def leftovers() -> list[str]:
    """What of a testbed is on this machine, apart from the cache."""
    left = [f"process {pid}" for pid in members(GROUP)]
    left += [f"control group {folder}" for folder in groups(GROUP)]
    left += [f"mount {point}" for point in mounts()]
    left += [f"loop device {device}" for device in loops()]
    left += [f"namespace {each.namespace}" for each in NODES if network.is_made(each)]
    links = (BRIDGE, *(each.link for each in NODES))
    left += [f"interface {link}" for link in links if Path("/sys/class/net", link).exists()]
    return left + ([str(STATE)] if STATE.exists() else [])
