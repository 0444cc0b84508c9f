"""The harness's tasks, by name.

The harness describes fourteen thousand tasks in as many files and takes tens of seconds to read them all. So only the
folders of those files are read that mention a name which is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind

from llm360.errors import InputError, nearest

HARNESS = f"lm-eval {version('lm-eval')}"
"""Name and version, as results and ledger entries carry them."""

SANDBOXED_TASKS = frozenset(
    {"humaneval", "humaneval_instruct", "humaneval_plus", "mbpp", "mbpp_instruct", "mbpp_plus", "mbpp_plus_instruct"}
)
"""Tasks whose code runs through `code_eval` alone."""

MAX_SHOTS = 100
_DEFINED = re.compile(r"""^\s*['"]?(?:task|group)['"]?\s*:\s*['"]?([A-Za-z0-9][\w.+()-]*)['"]?\s*$""", re.MULTILINE)
_ENTRY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class TaskRequest:
    """A task as it is asked for.

    Attributes:
        name: Of a task or a group of tasks.
        shots: Solved examples in the prompt; None: the task's own number.
    """

    name: str
    shots: int | None

    def __str__(self) -> str:
        return self.name if self.shots is None else f"{self.name}:{self.shots}"


def parse_tasks(words: str) -> tuple[TaskRequest, ...]:
    """`arc_challenge:25,mmlu:5,truthfulqa_mc2` taken apart.

    Raises:
        InputError: a name or a number of shots is not one, or a name stands there twice.
    """
    requests: dict[str, TaskRequest] = {}
    for word in filter(None, (word.strip() for word in words.split(","))):
        name, colon, shots = word.partition(":")
        if not _ENTRY_NAME.fullmatch(name):
            raise InputError(f"--tasks: '{word}' is no name of a task; write name or name:shots, with commas between")
        if colon and not (shots.isdecimal() and int(shots) <= MAX_SHOTS):
            raise InputError(f"--tasks: '{word}' has '{shots}' shots; allowed are 0 to {MAX_SHOTS}")
        if name in requests:
            raise InputError(f"--tasks names '{name}' twice; a task is evaluated with one number of shots at a time")
        requests[name] = TaskRequest(name, int(shots) if colon else None)
    if not requests:
        raise InputError("--tasks names no task; write for example arc_challenge:25,hellaswag:10")
    return tuple(requests.values())


class Tasks:
    """The harness's descriptions of tasks and groups, and of all their members.

    Args:
        names: Of tasks and groups.

    Raises:
        InputError: the harness has none of a name; names the nearest.
    """

    def __init__(self, names: Iterable[str]) -> None:
        wanted = list(names)
        self._manager = TaskManager(include_defaults=False)
        looked_up: set[str] = set()
        folders: set[Path] = set()
        waiting = set(wanted)
        while waiting:
            looked_up |= waiting
            found = folders.union(*map(_folders_of, waiting))
            if found - folders:
                folders = {folder for folder in found if not found.intersection(folder.parents)}
                # Of several descriptions of a name the first by path counts, as where the harness reads all folders.
                self._manager = TaskManager(include_defaults=False, include_path=sorted(folders, reverse=True))
            waiting = {name for name in self._reachable(wanted) if self._may_be_elsewhere(name)} - looked_up
        for name in wanted:
            if name not in self._manager.task_index:
                known = sorted({name for text in _texts().values() for name in _DEFINED.findall(text)})
                raise InputError(
                    f"the harness ({HARNESS}) has no task '{name}'{nearest(name, known)}; `lm-eval ls tasks` lists all",
                    reason="UnknownTask",
                )

    def load(self, name: str) -> Mapping[str, Any]:
        """A task, or a group and its tasks, with their data, as the harness's `evaluate` takes them."""
        loaded: Mapping[str, Any] = self._manager.load([name])
        return loaded

    def runs_code(self, name: str) -> bool:
        """Whether a task, or one of a group's, runs code that the model writes."""
        index = self._manager.task_index
        return any((index[leaf].cfg or {}).get("unsafe_code") for leaf in self._reachable([name]) if leaf in index)

    def _may_be_elsewhere(self, name: str) -> bool:
        """Whether other folders may say more of a name: a tag's tasks may lie anywhere."""
        entry = self._manager.task_index.get(name)
        return entry is None or entry.kind is Kind.TAG

    def _reachable(self, names: Iterable[str]) -> set[str]:
        """The names, and those of all members of groups and tags among them."""
        reached: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in reached:
                reached.add(name)
                waiting += _members(self._manager.task_index.get(name))
        return reached


def _members(entry: Entry | None) -> Iterator[str]:
    """Names of the tasks and groups directly below a group or tag."""
    if entry is None:
        return
    if entry.kind is Kind.TAG:
        yield from entry.tags
    elif entry.kind is Kind.GROUP:
        for member in (entry.cfg or {}).get("task") or ():
            name = member if isinstance(member, str) else member.get("task", member.get("group"))
            if isinstance(name, str):
                yield name


def _folders_of(name: str) -> set[Path]:
    """Folders of the descriptions that mention a name as a word of its own."""
    word = re.compile(rf"(?<![\w./-]){re.escape(name)}(?![\w./-])")
    return {path.parent for path, text in _texts().items() if name in text and word.search(text)}


@cache
def _texts() -> dict[Path, str]:
    """All of the harness's descriptions."""
    root = Path(lm_eval.tasks.__file__).parent
    return {path: path.read_text(encoding="utf-8") for path in sorted(root.rglob("*.yaml"))}
