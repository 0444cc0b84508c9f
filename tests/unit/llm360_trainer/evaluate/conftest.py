"""A mirror of tiny data sets, and the harness without its notes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from synthetic.eval_data import fill_mirror

from llm360.storage import Storage, open_storage
from llm360_trainer.cli.evaluate import quiet
from llm360_trainer.evaluate.data import TaskData
from llm360_trainer.evaluate.harness import set_shots
from llm360_trainer.evaluate.run import Loaded, load_tasks
from llm360_trainer.evaluate.tasks import parse_tasks


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    quiet()


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """All tiny sets."""
    return fill_mirror(open_storage(str(tmp_path_factory.mktemp("mirror"))))


@pytest.fixture
def load_task(mirror: Storage) -> Callable[[str], Loaded]:
    """Loads a task with its shots, as `arc_easy:5`, from the mirror."""

    def load(words: str) -> Loaded:
        (request,) = parse_tasks(words)
        (loaded,) = load_tasks([request], TaskData(mirror), allow_code=False).values()
        set_shots(loaded.tasks, request)
        return loaded

    return load
