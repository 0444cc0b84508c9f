"""Keys are spelled in one place, and read back there."""

from __future__ import annotations

import pytest

from llm360.release import layout


def test_keys():
    assert layout.ledger_key(7) == "ledger/00000007.json"
    assert layout.config_key("sha256:ab") == "config/ab.json"
    assert layout.environment_key(3) == "environment/a003.json"
    assert layout.checkpoint_prefix(762, 3) == "checkpoints/step_000000762/a003"
    assert layout.metrics_key(3, 1, 9, "sha256:" + "ab" * 32) == "metrics/a003/1-9-abababababab.parquet"
    assert layout.eval_prefix(2, "sha256:ab", "mmlu", "x") == "evals/step_000000002/ab/mmlu-x"


@pytest.mark.parametrize(
    ("key", "attempt"),
    [
        ("environment/a003.json", 3),
        ("metrics/a1000/x.parquet", 1000),
        ("checkpoints/step_000000762/a012/model/config.json", 12),
        ("ledger/00000000.json", None),
        ("checkpoints/other", None),
    ],
)
def test_attempt_of(key, attempt):
    assert layout.attempt_of(key) == attempt
