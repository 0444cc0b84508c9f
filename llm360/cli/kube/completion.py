"""`kubectl_complete-llm360`: kubectl asks it what may follow the words that were typed so far.

It answers as kubectl's own commands do: a word per line, then `:4`, which says that no files fit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import pairwise

from llm360.cli.completion import Node, nodes
from llm360.cli.kube.kubectl import Kubectl
from llm360.cli.kube.main import PLUGIN
from llm360.errors import LLM360Error

NO_FILES = ":4"


def complete(words: Sequence[str]) -> list[str]:
    """What may stand for the last word.

    Args:
        words: What was typed after `kubectl llm360`; the last one is being typed and may be empty.
    """
    *before, last = words or [""]
    known = {node.path: node for node in nodes(PLUGIN)}
    node = known[PLUGIN.name]
    for word in before:
        node = known.get(f"{node.path} {word}", node)
    return [word for word in _offers(node, before, last) if word.startswith(last)]


def _offers(node: Node, before: Sequence[str], last: str) -> Sequence[str]:
    if last.startswith("-"):
        return tuple(node.options)
    if node.path == PLUGIN.name:
        return node.commands
    option = before[-1]
    if node.options.get(option):
        return node.options[option]
    if option in ("-n", "--namespace", "--context"):
        return _names(before[:-1], "contexts" if option == "--context" else "namespaces")
    return _names(before, "runs")


def _names(before: Sequence[str], what: str) -> list[str]:
    """Names from the cluster; none where it does not answer: a completion never complains."""
    kubectl = Kubectl(
        namespace=_value(before, "-n", "--namespace"),
        context=_value(before, "--context"),
        kubeconfig=_value(before, "--kubeconfig"),
    )
    ask = {"runs": kubectl.run_names, "namespaces": kubectl.namespaces, "contexts": kubectl.contexts}
    try:
        return ask[what]()
    except LLM360Error:
        return []


def _value(words: Sequence[str], *options: str) -> str | None:
    return next((value for option, value in pairwise(words) if option in options), None)


def main() -> int:
    """The executable that kubectl looks for beside the plugin."""
    print("\n".join([*complete(sys.argv[1:]), NO_FILES]))
    return 0
