"""What the operator's image leaves out, neither the operator nor a preflight needs."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
DOCKERFILE = (ROOT / "images/operator/Dockerfile").read_text()
LEFT_OUT = re.search(r'^ARG WITHOUT="(.+)"$', DOCKERFILE, re.MULTILINE)[1].split()

# Refuses to import what the image does not have, as Python does there.
RUN = """\
import importlib.abc, runpy, sys
left_out = set(sys.argv.pop(1).split(","))
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in left_out:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def modules(name):
    """The top modules of a package that is installed here."""
    files = distribution(name).files or []
    tops = {
        file.parts[0].partition(".")[0] for file in files if file.suffix in (".py", ".so") and ".." not in file.parts
    }
    return tops - {"__pycache__"}


def run_as_in_the_image(module, *arguments):
    absent = ",".join(sorted(set().union(*map(modules, LEFT_OUT))))
    return subprocess.run(
        [sys.executable, "-c", RUN, absent, module, *arguments],
        capture_output=True, text=True, timeout=120, env=os.environ | {"LLM360_OPERATOR_IMAGE": ""},
    )  # fmt: skip


def test_every_package_that_is_left_out_is_one_of_the_lock_and_has_modules():
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    assert locked >= set(LEFT_OUT)
    assert {"pyarrow", "numpy", "matplotlib"} <= set().union(*map(modules, LEFT_OUT))
    assert DOCKERFILE.count("--no-install-package") == DOCKERFILE.count("uv sync") == 2


def test_a_preflight_passes_without_them(tmp_path):
    done = run_as_in_the_image("llm360.cli.main", "preflight", "amber-tiny", "--store", str(tmp_path / "store"))
    assert done.returncode == 0, done.stderr
    assert "data is prepared first for: stage1" in done.stdout


def test_the_operator_begins_without_them():
    """As far as its environment, in which a variable is missing."""
    done = run_as_in_the_image("llm360_operator.main")
    assert "ModuleNotFoundError" not in done.stderr
    assert "LLM360_" in done.stderr


@pytest.mark.parametrize("package", ["boto3", "kopf", "pydantic"])
def test_the_check_would_see_a_package_that_is_needed(package, tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "LEFT_OUT", [package])
    module = "llm360_operator.main" if package == "kopf" else "llm360.cli.main"
    done = run_as_in_the_image(module, "preflight", "amber-tiny", "--store", "s3://nowhere/run")
    assert "ModuleNotFoundError" in done.stderr
