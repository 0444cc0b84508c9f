"""A folder and a bucket as homes of a release, and the builder that the unit tests use."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from llm360.storage import Storage, open_storage


@pytest.fixture(params=["folder", "bucket"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty place for a release; child processes reach it with this process's environment."""
    if request.param == "folder":
        return (tmp_path / "run").as_uri()
    return f"{request.getfixturevalue('s3_bucket').uri}/runs/one"


@pytest.fixture(scope="session")
def unit_fixtures() -> ModuleType:
    """The unit tests' conftest: it builds a small but complete release."""
    path = Path(__file__).parents[2] / "unit/llm360/release/conftest.py"
    spec = importlib.util.spec_from_file_location("release_unit_fixtures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def build_release(unit_fixtures: ModuleType) -> Callable[[Storage], None]:
    """Builds a release in a store."""
    build: Callable[[Storage], None] = unit_fixtures.build_release
    return build


@pytest.fixture
def storage(home: str) -> Storage:
    """The store at that place."""
    return open_storage(home)
