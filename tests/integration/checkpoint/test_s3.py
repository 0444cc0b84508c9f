"""Checkpoints on a real S3 server, in files of several parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

PREFIX = "checkpoints/step_000000005/a001"


@pytest.mark.slow
def test_two_ranks_write_what_three_read(
    s3_bucket: Any, run_ranks: Callable[..., Path], tiny_config: dict[str, int]
) -> None:
    config = tiny_config | {"vocab_size": 100_003}  # 12 MB of state for the embedding and as much for the head
    reach = {"environment": s3_bucket.environment, "config": config}
    saved = run_ranks(
        s3_bucket.uri,
        2,
        {"do": "fill", "seed": 1},
        {"do": "save", "prefix": PREFIX, "step": 5},
        {"do": "show", "name": "saved"},
        **reach,
    )
    loaded = run_ranks(s3_bucket.uri, 3, {"do": "load", "prefix": PREFIX}, {"do": "show", "name": "loaded"}, **reach)
    wanted, found = load_file(saved / "saved"), load_file(loaded / "loaded")
    assert all(torch.equal(found[name], wanted[name]) for name in wanted if not name.endswith(".step"))
