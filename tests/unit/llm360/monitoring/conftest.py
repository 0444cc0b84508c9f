"""Records of steps, with fields changed."""

from datetime import UTC, datetime

import pytest

from llm360.release.metrics import StepRecord


@pytest.fixture
def step_record():
    """Makes the record of a step."""

    def make(**changes):
        fields = {
            "step": 3,
            "attempt": 1,
            "stage": 0,
            "time": datetime(2026, 1, 2, 3, tzinfo=UTC),
            "tokens": 3000,
            "loss": 4.0,
            "source_loss": {"docs": 3.0, "code": 5.0},
            "source_tokens": {"docs": 500, "code": 500},
            "learning_rate": 1e-3,
            "grad_norm": 0.5,
            "step_seconds": 0.25,
            "tokens_per_second": 4000.0,
            "mfu": 0.4,
            "data_wait_seconds": 0.01,
            "checkpoint_stall_seconds": 0.02,
            "memory_bytes": 1000,
            "skipped": False,
        }
        return StepRecord(**(fields | changes))

    return make
