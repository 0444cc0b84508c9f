"""Writes what is generated from the catalogue into the checkout: `python -m llm360.monitoring.generate [ROOT]`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from llm360.monitoring.alerts import rules_yaml
from llm360.monitoring.boards import BOARDS
from llm360.monitoring.dashboards import dashboard_json
from llm360.monitoring.reference import reference_page


def generated() -> Iterator[tuple[str, str]]:
    """Path in the checkout, and text, of each generated file."""
    yield "docs/reference/metrics.md", reference_page()
    yield "helm/llm360/files/rules.yaml", rules_yaml()
    for board in BOARDS:
        yield f"helm/llm360/dashboards/{board.uid}.json", dashboard_json(board)


def main(root: Path) -> None:
    """Write the files that differ."""
    for path, text in generated():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
            print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
