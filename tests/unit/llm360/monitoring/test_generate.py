"""What is generated is what is committed."""

from pathlib import Path

import pytest

from llm360.monitoring.catalogue import CATALOGUE
from llm360.monitoring.generate import generated, main

ROOT = Path(__file__).parents[4]
FILES = dict(generated())


@pytest.mark.parametrize("path", FILES)
def test_committed_file_is_the_generated_one(path):
    assert (ROOT / path).read_text(encoding="utf-8") == FILES[path], "run: python -m llm360.monitoring.generate"


def test_reference_lists_every_metric():
    page = FILES["docs/reference/metrics.md"]
    assert all(f"| `{metric.name}` | {metric.kind} |" in page for metric in CATALOGUE)


def test_files_are_written_where_they_differ(tmp_path, capsys):
    main(tmp_path)
    assert set(capsys.readouterr().out.split()) == set(FILES)
    main(tmp_path)
    assert capsys.readouterr().out == ""
