"""Processes of the testbed: known by the control group they live in, never by a process id that may have been reused.

Each daemon gets a group of its own; whatever it starts stays below, containers included (kubelet's root is the node's
group). So a group answers "is it running", and killing it leaves nothing, however its parent died.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from testbed.errors import TestbedError
from testbed.layout import LOGS, NAMESPACES

V1_ROOT = Path("/sys/fs/cgroup")
POLL_SECONDS, POLL_SHARE = 0.1, 4
"""Shortest pause of a wait, and how many times longer than the check itself: a kubectl costs a tenth of a second of a
processor that what is waited for needs."""
KILL_SECONDS = 30.0


def run(command: Iterable[object], *, stdin: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a command, each part as its text, to its end and give its standard output.

    Raises:
        TestbedError: it failed; with what it said.
    """
    text = [str(part) for part in command]
    try:
        done = subprocess.run(
            text, input=stdin, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})}
        )
    except FileNotFoundError as error:
        raise TestbedError(f"{text[0]} is not installed") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise TestbedError(f"`{' '.join(text)[:300]}` failed ({done.returncode}): {said}")
    return done.stdout


def wait_until(check: Callable[[], bool], what: str, seconds: float, *, log: str | None = None) -> None:
    """Poll until the check holds.

    Raises:
        TestbedError: it did not in time; with the end of the daemon's log if one is named.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        if check():
            return
        if (now := time.monotonic()) > deadline:
            tail = f"; the end of {LOGS / log}.log:\n{log_tail(log)}" if log else ""
            raise TestbedError(f"{what} did not come within {seconds:.0f} s{tail}")
        time.sleep(max(POLL_SECONDS, POLL_SHARE * (now - began)))


def log_tail(name: str, lines: int = 15) -> str:
    """The last lines of a daemon's log."""
    path = LOGS / f"{name}.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else "(no log)"


def is_unified() -> bool:
    """Whether this machine has control groups of version 2 alone."""
    return (V1_ROOT / "cgroup.controllers").exists()


def hierarchies() -> list[Path]:
    """Roots of the control group hierarchies; one where they are unified."""
    if is_unified():
        return [V1_ROOT]
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return sorted({Path(mount[1]) for mount in mounts if mount[2] == "cgroup"})


def _members_root() -> Path:
    return V1_ROOT if is_unified() else V1_ROOT / "pids"


def make_group(group: str) -> None:
    """Make the group in every hierarchy, with the machine's processors and controllers passed down."""
    for root in hierarchies():
        parent = root
        for part in Path(group).parts:
            if is_unified():
                (parent / "cgroup.subtree_control").write_text("+cpu +cpuset +memory +pids")
            child = parent / part
            child.mkdir(exist_ok=True)
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not is_unified() and (parent / name).exists() and not (child / name).read_text().strip():
                    (child / name).write_text((parent / name).read_text())
            parent = child


def groups(group: str) -> Iterator[Path]:
    """The group and all below it, the deepest first, in every hierarchy."""
    for root in hierarchies():
        for folder, _, _ in os.walk(root / group, topdown=False):
            yield Path(folder)


def members(group: str) -> list[int]:
    """Process ids in the group and below."""
    found: list[int] = []
    for folder, _, _ in os.walk(_members_root() / group):
        try:
            found += [int(line) for line in (Path(folder) / "cgroup.procs").read_text().split()]
        except (FileNotFoundError, OSError):
            continue  # the group ended while we looked
    return found


def kill(group: str) -> None:
    """Kill what is in the group and below, at once, and remove the groups.

    Raises:
        TestbedError: something does not die.
    """
    deadline = time.monotonic() + KILL_SECONDS
    while pids := members(group):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if time.monotonic() > deadline:
            raise TestbedError(f"processes {pids} of {group} do not end")
        time.sleep(0.02)
    while left := [folder for folder in groups(group) if not _remove(folder)]:
        if time.monotonic() > deadline:
            raise TestbedError(f"the control groups {[str(folder) for folder in left]} cannot be removed")
        time.sleep(0.02)


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # the last process is still leaving
    return True


def start(name: str, command: Iterable[object], *, group: str, namespace: str | None = None) -> None:
    """Start a daemon in a group of its own, `group/name`; it outlives this process and logs to LOGS/name.log."""
    own = f"{group}/{name}"
    make_group(own)
    LOGS.mkdir(parents=True, exist_ok=True)
    join = 'echo $$ > "$0" && exec "$@"'
    # Not `ip netns exec`: it mounts /sys anew, and kubelet then finds no control groups.
    enter = ["nsenter", f"--net={NAMESPACES / namespace}"] if namespace else []
    daemon: list[object] = ["sh", "-c", join, _members_root() / own / "cgroup.procs", *enter, *command]
    with (LOGS / f"{name}.log").open("ab") as log:
        subprocess.run(
            ["setsid", "--fork", *[str(part) for part in daemon]],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=True,
            cwd="/",
        )


def is_running(group: str, name: str) -> bool:
    """Whether the daemon has a living process."""
    return bool(members(f"{group}/{name}"))


def mounts_below(*folders: Path) -> list[str]:
    """Mount points inside the folders, in the order they were made."""
    points = [line.split()[4].replace("\\040", " ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(tuple(f"{folder}/" for folder in folders))]
