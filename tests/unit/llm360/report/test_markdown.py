from __future__ import annotations

import pytest

from llm360.report.markdown import fenced, line, paragraphs, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, (with) 'marks' & snake_case", "plain, (with) 'marks' \\& snake_case"),
        ("<b>|*x*| `y` [z](w)\n", "\\<b>\\|\\*x\\*\\| \\`y\\` \\[z\\](w)"),
        ("__init__ a\\b", "\\_\\_init\\_\\_ a\\\\b"),
        ("\t two\n  lines ", "two lines"),
        ("$x$ by @ada", "\\$x\\$ by \\@ada"),
    ],
)
def test_a_line_shows_marks_as_they_are(text, shown):
    assert line(text) == shown


def test_no_line_of_text_begins_anything():
    text = "# no heading\n---\n    no code\n1. no\n2) list\n- no\n+ list\n> no quote\n:--\n===\n\n\n\nnext\n~~~\n"
    shown = paragraphs(text)
    first = [one[:2] for one in shown.splitlines() if one]
    assert first == ["\\#", "\\-", "no", "1\\", "2\\", "\\-", "\\+", "\\>", "\\:", "\\=", "ne", "\\~"]
    assert "\n\n" in shown
    assert "\n\n\n" not in shown


def test_table_and_fence():
    assert table(("a", "b"), [("x", "1")], numbers=(1,)) == "| a | b |\n| --- | --: |\n| x | 1 |"
    assert fenced("sh", ["ls"]) == "```sh\nls\n```"
