"""Code that a model wrote, run where it can do no harm: without network, with nothing to write to, for seconds.

A program gets namespaces of its own by `unshare` (util-linux; no rights are needed where the kernel lets users make
them): no network but a loopback that is down, no processes but its own, all files read-only but for an empty folder in
memory, an empty environment. Where that cannot be had, nothing is run.

Tasks come here through the harness's own way of running code, the metric `code_eval` of the package `evaluate`, which
inside `serving` is this module's.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import evaluate
import numpy as np

from llm360.errors import InputError

TIMEOUT_SECONDS = 3.0
"""Of one program; what `code_eval` gives it by default."""

_START_SECONDS = (
    20.0  # for a busy machine to start one: the program's own time is counted by the kernel, in CPU seconds
)
_PASSED = 42  # the exit status of a program that ran to its end; its own way out gives another
_MEMORY_BYTES = 4 * 1024**3
_FOLDER_BYTES = 64 * 1024**2

_UNSHARE = (
    "unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child",
)  # fmt: skip

# Runs inside. mount_setattr (number 442 on every architecture, Linux 5.12) makes all mounts read-only at once.
_INSIDE = f"""
import ctypes, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(result):
    if result != 0:
        number = ctypes.get_errno()
        sys.exit(f"sandbox: {{os.strerror(number)}}")
read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
call(libc.syscall(442, -100, b"/", 0x8000, read_only, ctypes.sizeof(read_only)))
folder = os.getcwd()
for place in (folder, "/proc"):
    call(libc.mount(b"tmpfs", os.fsencode(place), b"tmpfs", 6, b"size={_FOLDER_BYTES}"))
os.chdir(folder)
limits = dict(AS={_MEMORY_BYTES}, CPU={math.ceil(TIMEOUT_SECONDS)}, FSIZE={_FOLDER_BYTES}, CORE=0)
for name, most in limits.items():
    resource.setrlimit(getattr(resource, "RLIMIT_" + name), (most, most))
program = sys.stdin.read()
try:
    exec(compile(program, "<program>", "exec"), {{"__name__": "__main__"}})
except BaseException:
    os._exit(1)
os._exit({_PASSED})
"""


def passes(program: str) -> bool:
    """Whether a Python program runs to its end, without an exception, in its time."""
    return _run(program).returncode == _PASSED


def check_sandbox() -> None:
    """See that programs can be shut in here.

    Raises:
        InputError: they cannot.
    """
    try:
        done = _run("pass")
    except FileNotFoundError as error:
        raise _unavailable("there is no 'unshare' (package util-linux)") from error
    if done.returncode != _PASSED:
        raise _unavailable(done.stderr.strip() or f"exit status {done.returncode}")


@contextlib.contextmanager
def serving() -> Iterator[None]:
    """Answer `evaluate.load("code_eval")` with the sandbox inside the block.

    Raises:
        InputError: programs cannot be shut in here.
    """
    check_sandbox()
    original = evaluate.load

    def load(path: str, *args: Any, **kwargs: Any) -> Any:
        return CodeEval() if path == "code_eval" else original(path, *args, **kwargs)

    evaluate.load = load
    try:
        yield
    finally:
        evaluate.load = original


class CodeEval:
    """The metric `code_eval`: pass@k of programs with their tests, arXiv:2107.03374."""

    def compute(
        self, *, references: Sequence[str], predictions: Sequence[Sequence[str]], k: Sequence[int] = (1, 10, 100)
    ) -> tuple[dict[str, float], dict[int, list[bool]]]:
        """Run every prediction followed by its problem's tests.

        Args:
            references: A problem's tests, as Python.
            predictions: The programs that were written for each problem.
            k: How many tries are to be counted as one; those above the number of programs are left out.

        Returns:
            `pass@k`, averaged over the problems; and for each problem which programs passed.
        """
        programs = [
            [f"{program}\n{tests}" for program in tries] for tries, tests in zip(predictions, references, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            passed = dict(enumerate([list(pool.map(passes, tries)) for tries in programs]))
        fewest = min(map(len, programs))
        scores = {
            f"pass@{tries}": float(
                np.mean([pass_at_k(len(results), sum(results), tries) for results in passed.values()])
            )
            for tries in k
            if tries <= fewest
        }
        return scores, passed


def pass_at_k(num_programs: int, num_passed: int, k: int) -> float:
    """The unbiased estimate 1 − C(n − c, k) / C(n, k) of arXiv:2107.03374, equation 1."""
    return 1.0 - math.comb(num_programs - num_passed, k) / math.comb(num_programs, k)


def _run(program: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="llm360-sandbox-") as folder:
        command = [*_UNSHARE, sys.executable, "-I", "-c", _INSIDE]
        try:
            return subprocess.run(
                command,
                check=False,
                input=program,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=folder,
                env={"PATH": os.defpath + ":/usr/sbin:/usr/bin"},
                text=True,
                timeout=TIMEOUT_SECONDS + _START_SECONDS,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 1, stderr="it did not end in its time")


def _unavailable(problem: str) -> InputError:
    return InputError(
        f"code that a model writes cannot be shut in on this machine ({problem}); allow users to make namespaces"
        " (sysctl user.max_user_namespaces, the pod's seccomp profile), or leave tasks that run code out",
        reason="SandboxUnavailable",
    )
