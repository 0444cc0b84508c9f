"""A checkpoint leaves as a Hugging Face folder, and a run goes on from its very bits, under its own words."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from llm360.cli.main import run as llm360
from llm360.release.verify import verify
from llm360.storage import open_storage
from llm360_trainer.exchange.imports import import_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def export(store: Path, step: int, folder: Path) -> ModelCard:
    """The card that the command writes into the folder."""
    assert llm360(["export", "hf", str(store), "--checkpoint", str(step), "--out", str(folder)]) == 0
    return ModelCard((folder / "README.md").read_text(encoding="utf-8"))


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
    card = export(undisturbed.store, last.step, tmp_path / "hf")
    assert card.data.license is None, "a preset's words are not those of the run"
    assert f"| Step | {last.step} of {last.step} |" in card.text
    assert f"| Checkpoint's model digest | `{last.body.digests.model}` |" in card.text
    assert "| stage1 | data/stage1 | `sha256:" in card.text
    weights = import_folder(tmp_path / "hf", open_storage(str(tmp_path / "weights"))).spec()["model"]["weights"]
    sets = [
        f"model.weights={json.dumps(weights)}",
        "training.steps=3",
        "training.schedule.warmupSteps=1",
        "cluster.workers.replicas=1",
        "release.license=CC-BY-4.0",
        'release.authors=["Ada Lovelace", "Charles Babbage"]',
        'release.description="Goes on: <b>3</b> steps"',
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

    card = export(prepared_store, 3, tmp_path / "trained")
    assert card.data.license == "cc-by-4.0"
    assert "\nGoes on: \\<b>3\\</b> steps\n" in card.text
    assert "| Authors | Ada Lovelace, Charles Babbage |" in card.text
    assert f"| Began with | imported weights with the manifest `{weights['digest']}` |" in card.text
    assert llm360(["report", str(prepared_store), "--no-verify"]) == 0
    assert '<p class="lead">Licence: CC-BY-4.0.</p>' in (prepared_store / "report/index.html").read_text()
