import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.errors import LLM360Error
from llm360.storage import open_storage
from llm360_trainer.prepare.parts import PartId, PartInfo, PartTable, TokenLine, blocks_of, find_parts, write_part


@pytest.fixture
def scratch(tmp_path):
    return open_storage(str(tmp_path))


# Documents' lengths by part; parts without documents among them.
PARTS = [[3, 1], [], [5], [2, 2, 2], [], [7, 1]]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_any_range_of_a_sources_ids_is_read_with_the_documents_that_begin_there(scratch, dtype):
    total = sum(map(sum, PARTS))
    ids = np.arange(total, dtype=dtype)
    position, infos = 0, []
    for number, lengths in enumerate(PARTS):
        part = PartId(number // 2, number % 2)
        stop = position + sum(lengths)
        info = write_part(scratch, part, number % 2 == 1, np.array(lengths, np.uint32), ids[position:stop])
        infos.append((part, info))
        position = stop
    line = TokenLine.of(reversed(infos), dtype)
    assert (line.documents, line.tokens) == (sum(map(len, PARTS)), total)
    all_lengths = [length for lengths in PARTS for length in lengths]
    all_starts = np.cumsum(all_lengths) - all_lengths
    for start in range(total):
        for stop in range(start + 1, total + 1):
            found, starts, first = line.read(scratch, start, stop)
            assert found.tolist() == list(range(start, stop))
            assert starts.tolist() == all_starts[first : first + len(starts)].tolist()
            assert starts[0] <= start
            assert first + len(starts) == len(all_starts) or all_starts[first + len(starts)] >= stop
    assert find_parts(scratch) == dict(infos)


def test_foreign_file_among_the_parts_is_named(scratch):
    scratch.put("parts/000000-000000", b"something else, longer than a header")
    with pytest.raises(LLM360Error, match="is no part of a preparation"):
        find_parts(scratch)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.data())
def test_split_is_finished_once_all_its_blocks_are_there(blocks, data):
    parts = [
        (PartId(split, block), PartInfo(block == count - 1, 1, 1))
        for split, count in enumerate(blocks)
        for block in range(count)
    ]
    order = data.draw(st.permutations(parts))
    cut = data.draw(st.integers(0, len(order)))
    table = PartTable(len(blocks), dict(order[:cut]))
    for number in range(cut, len(order) + 1):
        present = [part.split for part, _ in order[:number]]
        assert list(table.unfinished) == [split for split, count in enumerate(blocks) if present.count(split) < count]
        if number < len(order):
            table.add(*order[number])
            table.add(*order[number])  # the same part again changes nothing


@given(st.lists(st.text(max_size=9), max_size=20), st.integers(1, 30))
def test_blocks_hold_all_documents_in_order_and_the_last_says_so(texts, block_chars):
    blocks = list(blocks_of(4, texts, block_chars))
    assert [text for block in blocks for text in block.documents] == texts
    assert [block.part for block in blocks] == [PartId(4, number) for number in range(len(blocks))]
    assert [block.last for block in blocks] == [False] * (len(blocks) - 1) + [True]
