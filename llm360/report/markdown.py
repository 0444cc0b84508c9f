"""Text as Markdown that shows it as it was written: nothing in it becomes a heading, a table, a formula or HTML.

Nor does it become a link, but for addresses, of which some readers of Markdown make links by themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

# An underscore inside a word marks nothing.
_MARKUP = re.compile(r"([\\`*\[\]<|~&$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_FIRST_MARK = re.compile(r"^([-+=:>#])")
_FIRST_NUMBER = re.compile(r"^(\d+)([.)])")


def line(text: str) -> str:
    """Text in one line; CommonMark takes a backslash before any of its marks."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def paragraphs(text: str) -> str:
    """Text of several lines: blank ones part paragraphs, and no line begins a list, a rule or a heading."""
    lines = [_FIRST_NUMBER.sub(r"\1\\\2", _FIRST_MARK.sub(r"\\\1", line(one))) for one in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines).strip("\n"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table; cells are Markdown already.

    Args:
        head: Of the columns.
        rows: One cell a column.
        numbers: Columns, counted from 0, that are set to the right.
    """
    rule = ["--:" if column in numbers else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def code(text: str) -> str:
    """A name or digest, which has no backtick, set as code."""
    return f"`{text}`"


def fenced(language: str, lines: Iterable[str]) -> str:
    """Lines of code."""
    return "\n".join([f"```{language}", *lines, "```"])
