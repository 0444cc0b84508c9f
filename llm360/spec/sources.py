"""The source of each value of a preset: the comment behind it in its file.

A value's comment stands at the end of its line; a section's, behind its name, holds for the values of the section
that have none of their own. What the short names in them mean (`README`, `yml`) is said at the top of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import yaml

from llm360.spec.layers import preset_file_text, preset_files

COMMENT = re.compile(r"\s#\s*(.*)$")


def preset_sources(name: str) -> dict[str, str]:
    """The source of each value that a preset states, by its path (`training.batchSize`, `data.stages[stage2].steps`).

    Where one file lies over another, the upper one's source holds, as its value does. A list's members have the path
    of their `name`, else of their place.

    Raises:
        InputError: there is no such preset.
    """
    sources: dict[str, str] = {}
    for file in preset_files(name):
        text = preset_file_text(file)
        found = dict(_walk(yaml.compose(text, Loader=yaml.SafeLoader), "", "", text.splitlines()))
        # A value that states no source is no longer the one below it, whose source would be wrong.
        sources |= found
    return {path: source for path, source in sources.items() if source}


def preset_legend(name: str) -> list[str]:
    """The lines at the top of a preset's files, which say what the sources' short names mean; the lowest file first."""
    lines: list[str] = []
    for file in preset_files(name):
        for line in preset_file_text(file).splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").removeprefix(" "))
    return lines


def _walk(node: yaml.Node | None, path: str, inherited: str, lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each scalar below the node (a list of scalars counts as one) and its comment."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            own = _comment(value if _ends_on_its_line(key, value) else key, lines)
            yield from _walk(value, f"{path}.{key.value}".removeprefix("."), own or inherited, lines)
    elif isinstance(node, yaml.SequenceNode) and any(isinstance(item, yaml.MappingNode) for item in node.value):
        for index, item in enumerate(node.value):
            names = [value.value for key, value in item.value if key.value == "name"]
            yield from _walk(item, f"{path}[{(names or [index])[0]}]", inherited, lines)
    elif node is not None:
        yield path, inherited


def _ends_on_its_line(key: yaml.Node, value: yaml.Node) -> bool:
    return bool(key.start_mark.line == value.end_mark.line)


def _comment(node: yaml.Node, lines: list[str]) -> str:
    mark = node.end_mark
    found = COMMENT.search(lines[mark.line][mark.column :])
    return found[1].strip() if found else ""
