"""The reference of the ledger's entries says what the models say.

`python tests/unit/llm360/release/test_reference.py` writes the tables anew.
"""

from __future__ import annotations

import typing
from pathlib import Path

from pydantic import BaseModel

from llm360.release.entries import EntryDraft
from llm360.release.verify_report import TITLES

REFERENCE = Path(__file__).parents[4] / "docs/reference/ledger.md"
BEGIN, END = "<!-- kinds: begin -->\n", "<!-- kinds: end -->\n"


def render() -> str:
    """The tables of all kinds, as Markdown."""
    parts = []
    for kind in typing.get_args(EntryDraft):
        name = kind.model_fields["kind"].default
        doc = " ".join((kind.__doc__ or "").split())
        writer = "training's newest attempt" if kind.training else "anyone"
        parts.append(f"### {name}\n\n{doc}\n\nAppended by: {writer}.\n\n| field | meaning |\n|---|---|\n{rows(kind)}\n")
    return "\n".join(parts)


def rows(model: type[BaseModel], prefix: str = "") -> str:
    lines = []
    for name, field in model.model_fields.items():
        if name in ("kind",):
            continue
        inner = inner_model(field.annotation)
        optional = "" if field.is_required() else " (optional)"
        if inner is not None:
            lines.append(rows(inner, f"{prefix}{name}{'[]' if 'tuple' in str(field.annotation) else ''}."))
            continue
        lines.append(f"| `{prefix}{name}`{optional} | {field.description or ''} |")
    return "\n".join(lines)


def inner_model(annotation: object) -> type[BaseModel] | None:
    """The model inside an annotation, if there is one."""
    for candidate in (annotation, *typing.get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def test_tables_are_those_of_the_models():
    text = REFERENCE.read_text()
    assert text.split(BEGIN)[1].split(END)[0].strip() == render().strip(), f"run: python {Path(__file__).name}"


def test_every_field_is_described():
    for kind in typing.get_args(EntryDraft):
        for line in rows(kind).splitlines():
            name, meaning = line.strip("| ").split("|", 1) if line.count("|") > 2 else (line, "")
            assert meaning.strip(" |"), f"{kind.__name__}.{name} has no description"


def test_all_checks_are_listed():
    text = REFERENCE.read_text()
    for number, title in TITLES.items():
        assert f"| {number} | {title} |" in text


if __name__ == "__main__":
    before, rest = REFERENCE.read_text().split(BEGIN)
    REFERENCE.write_text(f"{before}{BEGIN}\n{render()}\n{END}{rest.split(END)[1]}")
