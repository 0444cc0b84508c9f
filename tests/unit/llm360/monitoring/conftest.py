"""Records of steps, with fields changed, and a synthetic release."""

from datetime import UTC, datetime

import pytest
from synthetic import release

from llm360.release.create import open_release
from llm360.release.metrics import StepRecord, run_table
from llm360.storage import open_storage


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


@pytest.fixture(scope="session")
def eventful_uri(tmp_path_factory):
    """Address of a release with restarts, a fallback, a rewind, a skip and two sources, called amber-tiny."""
    uri = str(tmp_path_factory.mktemp("made") / "amber-tiny")
    release.eventful_release(open_storage(uri))
    return uri


@pytest.fixture(scope="session")
def eventful(eventful_uri):
    """Its ledger's history, and a function that reads its records."""
    storage = open_storage(eventful_uri)
    history = open_release(storage).history()
    return history, lambda **options: run_table(storage, history, **options)
