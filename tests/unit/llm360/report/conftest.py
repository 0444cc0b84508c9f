"""Synthetic releases (`tests/synthetic`), made once and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic.release import SyntheticRelease, eventful_release, interrupted_release

from llm360.storage import Storage, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "amber-tiny"))


@pytest.fixture(scope="session")
def made_releases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SyntheticRelease]:
    """Each kind made once; tests get copies."""
    return {
        make.__name__: make(open_storage(str(tmp_path_factory.mktemp("made") / make.__name__)))
        for make in (eventful_release, interrupted_release)
    }


def copy_of(run: SyntheticRelease, storage: Storage) -> SyntheticRelease:
    shutil.copytree(run.storage.uri.removeprefix("file://"), storage.uri.removeprefix("file://"), dirs_exist_ok=True)
    return replace(run, storage=storage, entries=list(run.entries))


@pytest.fixture
def eventful(made_releases: dict[str, SyntheticRelease], storage: Storage) -> SyntheticRelease:
    return copy_of(made_releases["eventful_release"], storage)


@pytest.fixture
def interrupted(made_releases: dict[str, SyntheticRelease], storage: Storage) -> SyntheticRelease:
    return copy_of(made_releases["interrupted_release"], storage)


@pytest.fixture
def new_release(tmp_path: Path) -> Callable[..., SyntheticRelease]:
    """Makes an eventful release of any size in a folder of its own."""

    def make(**sizes: int) -> SyntheticRelease:
        return eventful_release(open_storage(str(tmp_path / "big-run")), **sizes)

    return make
