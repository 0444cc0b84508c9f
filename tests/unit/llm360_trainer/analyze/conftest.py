"""A copy of a run that was truly trained, and its checkpoints."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from synthetic.trained import TrainedRelease

from llm360.release.create import open_release
from llm360.release.history import CheckpointEntry
from llm360_trainer.analyze.analysis import Subject
from llm360_trainer.exchange.opened import open_checkpoint


@pytest.fixture
def release(trained_copy: TrainedRelease) -> TrainedRelease:
    """The copy."""
    return trained_copy


@pytest.fixture
def open_subject(release: TrainedRelease) -> Callable[..., Subject]:
    """Opens a checkpoint of the copy."""
    history = open_release(release.storage).history()

    def open_it(checkpoint: CheckpointEntry, batch_size: int = 7) -> Subject:
        return Subject(checkpoint, open_checkpoint(release.storage, history, checkpoint).decoder, batch_size)

    return open_it
