"""The tree holds every sequence on one path, and what is shared once."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from llm360_trainer.evaluate.prefixes import Node, prefix_tree

SEQUENCES = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9).map(tuple), unique=True, max_size=30)


def walk(nodes: list[Node]) -> Iterator[Node]:
    for node in nodes:
        yield node
        yield from walk(node.children)


@given(SEQUENCES, st.integers(1, 5))
def test_each_sequence_is_one_path(sequences, min_shared):
    paths: dict[int, list[int]] = {index: [] for index in range(len(sequences))}
    for node in walk(prefix_tree(sequences, min_shared)):
        assert node.tokens
        assert node.deepest == max(len(sequences[index]) for index in node.sequences)
        assert len(node.sequences) == 1 or len(node.tokens) >= min_shared
        for index in node.sequences:
            assert len(paths[index]) == node.start
            paths[index] += node.tokens
    assert [tuple(path) for path in paths.values()] == sequences


@given(SEQUENCES)
def test_nothing_is_computed_twice_where_all_is_shared(sequences):
    computed = sum(len(node.tokens) for node in walk(prefix_tree(sequences, 1)))
    assert computed == len({sequence[: end + 1] for sequence in sequences for end in range(len(sequence))})


def test_questions_below_their_subjects_examples():
    shots = tuple(range(100))
    questions = [(*shots, 200 + q, *range(300 + 20 * q, 320 + 20 * q)) for q in range(3)]
    sequences = [(*question, ending) for question in questions for ending in (1, 2)]
    (root,) = prefix_tree(sequences)
    assert root.tokens == shots
    assert sorted(len(node.tokens) for node in root.children) == [21, 21, 21]
    assert all(len(node.children) == 2 for node in root.children)


def test_none_are_none():
    assert prefix_tree([]) == []
