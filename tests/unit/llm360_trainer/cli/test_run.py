"""`llm360 run` where it ends before it begins."""

import json
import subprocess
import sys

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None  # as where it is not installed
from llm360.cli.main import run
sys.exit(run(["run", "amber-tiny", "--store", "x"]))
"""


def test_a_package_that_is_not_installed_is_named_with_the_extra_that_brings_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 2
    sentence, last = done.stderr.splitlines()
    assert sentence.startswith("llm360: 'run' needs the package 'ray', which is not installed")
    assert sentence.endswith("install it in a checkout of llm360 with: pip install '.[trainer]'")
    assert json.loads(last)["reason"] == "PackageMissing"
