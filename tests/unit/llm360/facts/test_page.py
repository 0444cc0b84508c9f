"""The page in docs/ is the one that the presets give."""

from pathlib import Path

from llm360.facts.page import presets_page
from llm360.spec import preset_names

PAGE = Path(__file__).parents[4] / "docs" / "presets.md"


def test_committed_page_is_the_generated_one():
    assert PAGE.read_text(encoding="utf-8") == presets_page(), "run: llm360 presets reference > docs/presets.md"


def test_every_preset_is_there_and_equals_what_was_published():
    page = presets_page()
    assert all(f"| `{name}` |" in page for name in preset_names())
    compared = page.split("## Against the published numbers")[1].split("\n## ")[0].splitlines()
    rows = [line.split(" | ") for line in compared if line.startswith("| `")]
    assert len(rows) > 60
    assert {row[3] for row in rows} == {"="}
    assert all(len(row[4]) > 3 for row in rows)
