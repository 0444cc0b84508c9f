"""A browser without a window, spoken to over a pipe, and the synthetic release of the unit tests."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from synthetic import measured, release

from llm360.storage import Storage

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_SECONDS = 60.0
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)


@dataclass
class Browser:
    """A page in a headless browser (DevTools protocol: JSON objects, each ended by a NUL byte)."""

    process: subprocess.Popen[bytes]
    commands: int
    answers: int
    session: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _unread: bytes = b""
    _count: int = 0

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._count += 1
        command = {"id": self._count, "method": method, "params": params}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        answer = self.wait_for(lambda message: message.get("id") == self._count)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def wait_for(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted; events are kept on the way."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            message = self._next(deadline)
            if "method" in message:
                self.events.append(message)
            if is_wanted(message):
                return message

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self.answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser did not answer within {ANSWER_SECONDS:g} s")
            data = os.read(self.answers, 1 << 20)
            if not data:
                raise RuntimeError(f"the browser ended with {self.process.wait(10)}")
            self._unread += data
        message, self._unread = self._unread.split(b"\0", 1)
        return json.loads(message)

    def open(self, page: Path, *, width: int, dark: bool = False) -> None:
        """Show a page at a width (CSS pixels) until it is loaded."""
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=page.as_uri())
        self.wait_for(lambda message: message.get("method") == "Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for the session; tests are skipped where none is installed."""
    program = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium here to look at the report with (Debian: apt-get install chromium)")
    profile = tmp_path_factory.mktemp("browser")
    command_in, command_out = os.pipe()
    answer_in, answer_out = os.pipe()
    # The protocol's pipe is file descriptors 3 and 4 of the browser.
    shell = f'exec "$0" "$@" 3<&{command_in} 4>&{answer_out}'
    with (profile / "log").open("wb") as log:
        process = subprocess.Popen(
            ["bash", "-c", shell, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(command_in, answer_out),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    os.close(command_in)
    os.close(answer_out)
    made = Browser(process, command_out, answer_in)
    try:
        targets = made.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        made.session = made.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            made.call(f"{domain}.enable")
        yield made
    finally:
        process.kill()
        process.wait(timeout=20)
        os.close(command_out)
        os.close(answer_in)


@pytest.fixture(scope="session")
def eventful_release() -> Callable[[Storage], Any]:
    """Writes a complete release with restarts, a fallback, a skip and two sources into a storage."""
    return release.eventful_release


@pytest.fixture(scope="session")
def measured_release() -> Callable[[Storage], Any]:
    """Writes the same, every checkpoint evaluated and analysed."""

    def write(storage: Storage) -> Any:
        run = release.eventful_release(storage)
        measured.measure(run)
        return run

    return write
