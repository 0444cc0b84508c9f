"""A checkpoint leaves as a Hugging Face folder, comes back, and a run goes on from its very bits."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llm360.release.verify import verify
from llm360.storage import open_storage
from llm360_trainer.exchange.export import export_checkpoint
from llm360_trainer.exchange.imports import import_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_an_imported_folder_trains_on(
    undisturbed: Any,
    prepared_store: Path,
    tmp_path: Path,
    spec_file: Path,
    train: Callable[..., Any],
    read_history: Any,
    losses_of: Any,
) -> None:
    last = undisturbed.history.branch[-1]
    exported = export_checkpoint(open_storage(str(undisturbed.store)), str(last.step), out=tmp_path / "hf")
    weights = import_folder(exported.folder, open_storage(str(tmp_path / "weights"))).spec()["model"]["weights"]
    sets = [
        f"model.weights={json.dumps(weights)}",
        "training.steps=3",
        "training.schedule.warmupSteps=1",
        "cluster.workers.replicas=1",
    ]
    run = train(spec_file, "--store", prepared_store, *(word for value in sets for word in ("--set", value)))
    assert run.end() == 0, run.log.read_text()[-4000:]

    history = read_history(prepared_store)
    first, end = history.branch[0], history.branch[-1]
    assert (first.step, end.step) == (0, 3)
    assert first.body.digests.model == last.body.digests.model
    assert end.body.digests.model != first.body.digests.model
    # Not the loss of first values, which is that of guessing among 512 tokens.
    assert losses_of(prepared_store)[1] < math.log(512) - 1
    assert verify(open_storage(str(prepared_store))).ok
