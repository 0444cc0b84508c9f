"""A complete release on a folder and on a real S3 server: verified, listed, pruned, cleaned."""

from __future__ import annotations

import json

import pytest

from llm360.cli.main import run as command
from llm360.release.verify import verify

LITTER = "checkpoints/step_000000004/a001/model/config.json"


@pytest.fixture
def release(storage, build_release):
    build_release(storage)
    return storage


def test_life_of_a_release(release, home, capsys):
    report = verify(release, tensors="all", data=True)
    assert report.ok, report.first_fault
    assert command(["ls", home, "-o", "json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["checkpoints"]) == 5
    assert command(["prune", home, "--checkpoint", "ckpt_000", "--state", "--model"]) == 0
    assert not release.exists("checkpoints/step_000000002/a001/state/layer_00000.safetensors")
    assert command(["gc", home, "--delete", "--older-than", "0s"]) == 0
    assert f"{LITTER}  (named by no entry)" in capsys.readouterr().out
    assert not release.exists(LITTER)
    assert command(["verify", home, "--tensors", "all", "--data"]) == 0
    assert "verified" in capsys.readouterr().out


def test_flipped_byte_is_found_wherever_it_lies(release, home, capsys):
    key = "checkpoints/step_000000002/a001/state/layer_00000.safetensors"
    data = bytearray(release.get(key))
    data[-1] ^= 1
    release.put(key, bytes(data))
    assert command(["verify", home]) == 1
    assert f"BROKEN at check 8: {key}: has digest sha256:" in capsys.readouterr().out
