"""What the images say of themselves is what a driver says of its sources."""

import json
import subprocess
import sys
from pathlib import Path

from llm360_trainer.driver.environment import source_digest

ROOT = Path(__file__).parents[3]


def test_the_baked_digest_is_the_one_that_a_driver_computes():
    command = [sys.executable, "images/build_info.py", "abc"]
    info = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    assert info["commit"] == "abc"
    assert info["source_digest"] == source_digest([ROOT / "llm360", ROOT / "trainer" / "llm360_trainer"])
    assert info["lock_digest"].startswith("sha256:")


def test_each_image_runs_as_nobody_and_takes_base_and_versions_as_arguments():
    for name in ("operator", "trainer"):
        lines = (ROOT / "images" / name / "Dockerfile").read_text().splitlines()
        assert "ARG BASE=debian:bookworm-slim" in lines
        assert any(line.startswith("ARG UV_VERSION=") for line in lines)
        assert [line for line in lines if line.startswith("USER ")] == ["USER 65532:65532"]
