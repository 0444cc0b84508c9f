"""The dashboards' JSON against the types that Grafana publishes (`@grafana/schema`), by the TypeScript compiler."""

from __future__ import annotations

import functools
import json
import operator
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm360.monitoring.boards import BOARDS

HERE = Path(__file__).parent / "grafana"
DASHBOARDS = Path(__file__).parents[3] / "helm/llm360/dashboards"
OFFLINE = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENOTFOUND", "ETIMEDOUT")
"""What npm says where it has no network."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """What the compiler finds wrong in dashboards: `problems(*boards)`."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("needs node and npm for @grafana/schema; the SDK's own models are asked in tests/unit")
    folder = tmp_path_factory.mktemp("schema")
    for name in ("package.json", "package-lock.json", "boards.ts"):
        shutil.copy(HERE / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if any(code in result.stderr for code in OFFLINE):
        pytest.skip(f"needs the npm registry for @grafana/schema: {result.stderr[-300:]}")
    assert result.returncode == 0, result.stderr

    def find(*boards: Any) -> list[str]:
        lines = ['import type { Board } from "./boards";']
        lines += [f"export const board{i}: Board = {json.dumps(board)};" for i, board in enumerate(boards)]
        (folder / "check.ts").write_text("\n".join(lines))
        options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "preserve"]
        command = ["node", "node_modules/typescript/bin/tsc", *options, "check.ts"]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300).stdout.splitlines()

    return find


def committed() -> list[Any]:
    return [json.loads((DASHBOARDS / f"{board.uid}.json").read_text()) for board in BOARDS]


def test_every_dashboard_is_one_by_grafana_s_published_types(problems):
    assert problems(*committed()) == []


WRONG = [
    (["titel"], "a name that Grafana does not know"),
    (["schemaVersion"], "a text for a number"),
    (["panels", 1, "options", "colorMode"], "no member of the enumeration"),
    (["panels", 1, "type"], "no kind of panel that is ours"),
    (["panels", -1, "options", "tooltip", "mode"], "no member of the enumeration"),
    (["panels", -1, "gridPos", "w"], "a text for a number"),
    (["annotations", "list", 0, "target"], {"refId": "no expression"}),
    (["templating", "list", 0, "type"], "no kind of variable"),
]
"""Where in the JSON of the dashboard Run a value is put that is wrong there."""


def test_what_is_wrong_is_found(problems):
    boards = []
    for (*parents, last), value in WRONG:
        board = committed()[0]
        functools.reduce(operator.getitem, parents, board)[last] = value
        boards.append(board)
    found = {int(match[1]) for line in problems(*boards) if (match := re.match(r"check\.ts\((\d+),", line))}
    assert found == set(range(2, 2 + len(WRONG)))  # a line for each, after the import
