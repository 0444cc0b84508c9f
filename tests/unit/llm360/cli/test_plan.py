"""Where the GPUs of a plan stand: in one node, or with a network between."""

import json

import pytest

from llm360.cli.main import run
from llm360.cli.plan import EXAMPLES


def planned(capsys, words):
    """Exit code, output and errors of `llm360 spec plan …`."""
    code = run(["spec", "plan", *words.split()])
    return code, *capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "nodes"),
    [
        ("--gpus 8 --gpus-per-node 8", "1 node"),
        ("--gpus 8", "2 nodes of 4"),
        ("--gpus 10", "3 nodes of up to 4"),
        ("--gpus-per-node 8", "28 nodes of 8"),
    ],
)
def test_the_nodes_are_shown(capsys, words, nodes):
    code, out, _ = planned(capsys, f"amber-7b {words}")
    assert code == 0
    assert f") in {nodes}, 1 copies of the model" in out.splitlines()[0]


def test_ranks_of_one_node_need_no_network(capsys):
    one, two = (json.loads(planned(capsys, f"amber-7b --gpus 8 {w} -o json")[1]) for w in ("--gpus-per-node 8", ""))
    assert [(facts["nodes"], facts["gpus_per_node"]) for facts in (one, two)] == [(1, 8), (2, 4)]
    seconds = [facts["step_seconds"]["communicate"] for facts in (one, two)]
    assert seconds[1] / seconds[0] == pytest.approx(450 / 50)


def test_a_node_has_gpus(capsys):
    code, _, errors = planned(capsys, "amber-7b --gpus-per-node 0")
    assert (code, errors) == (2, "llm360: error: --gpus-per-node is 0; at least 1 is allowed, 8 is usual\n")


def test_the_examples_are_what_they_say(capsys):
    (line,) = [line for line in EXAMPLES.splitlines() if "one node" in line]
    words, _, _ = line.partition("   on one node")
    assert ") in 1 node," in planned(capsys, words.partition("spec plan ")[2])[1]
