"""The reference page in docs/ is the one that the schema gives."""

from pathlib import Path

from llm360.spec.reference import reference_page

PAGE = Path(__file__).parents[4] / "docs" / "reference" / "spec.md"


def test_committed_page_is_the_generated_one():
    assert PAGE.read_text(encoding="utf-8") == reference_page(), "run: llm360 spec reference > docs/reference/spec.md"


def test_page_shows_types_bounds_defaults_and_identity():
    page = reference_page()
    assert "| `seed` | integer, [0 … 9,007,199,254,740,991] | `0` |" in page
    assert "| `precision` | `fp32` · `bf16` | `bf16` |" in page
    assert "Unit: ratio. **identity** |" in page
    assert "## spec.data.stages[]" in page
