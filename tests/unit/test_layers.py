"""The layers of pyproject.toml are enforced: a copy of the project that breaks them is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

BREACHES = {
    "the core imports the trainer": ("llm360/canonical.py", "import llm360_trainer"),
    "the core imports torch": ("llm360/canonical.py", "import torch"),
    "the trainer imports the operator": ("trainer/llm360_trainer/__init__.py", "import llm360_operator"),
    "a low layer imports a high one": ("llm360/storage/base.py", "import llm360.release"),
    "the model imports the core": ("trainer/llm360_trainer/model/config.py", "import llm360.errors"),
}


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    paths = [str(root), str(root / "trainer"), str(root / "operator")]
    code = f"import sys; sys.path[:0] = {paths!r}; from importlinter.cli import lint_imports_command as lint; lint()"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project's sources and their contracts."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for folder in ("llm360", "trainer", "operator"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.mark.slow
def test_the_project_keeps_its_layers(project: Path) -> None:
    result = lint(project)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_refused(project: Path, breach: str) -> None:
    path, statement = BREACHES[breach]
    source = project / path
    head, _, rest = source.read_text().partition("from __future__ import annotations")
    source.write_text(
        f"{head}from __future__ import annotations\n{statement}\n{rest}" if rest else f"{head}\n{statement}\n"
    )
    result = lint(project)
    assert result.returncode == 1, result.stdout
    assert "BROKEN" in result.stdout
