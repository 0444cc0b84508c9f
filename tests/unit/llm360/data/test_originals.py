"""The order of data carries Amber, Pythia and K2 as they were: numbers of their sources, computed nowhere here."""

import pytest

from llm360.data.order import StageOrder


def test_amber_drops_what_fills_no_batch():
    """amber-train main.py and run.sh at 64bc595: 360 chunks of 1,706,976 rows of 2,049 ids, 56 × 4 × 10 rows a step."""
    order = StageOrder((1_706_976,) * 360, 2240, "drop")
    assert order.num_steps == 274_320
    assert [order.is_chunk_end(step) for step in (761, 762, 763)] == [False, True, False]
    assert order.step_rows(761) == ((0, 1_704_640, 1_706_880),)
    assert order.step_rows(762) == ((1, 0, 2240),)
    assert 1_706_976 - 762 * 2240 == 96
    assert order.num_steps * 2240 * 2048 == 1_258_448_486_400  # tokens trained on
    assert sum(order.chunk_rows) * 2049 == 1_259_133_776_640  # tokens of the data set


def test_pythia_runs_on_into_the_next_chunk():
    """pythia README at a19eecb: row 1024·k of the preshuffled data begins step k; 143,000 steps of 1,024 rows."""
    rows = 143_000 * 1024
    order = StageOrder((rows // 7, rows // 2, rows - rows // 7 - rows // 2), 1024, "carry")
    assert order.num_steps == 143_000
    assert order.num_steps * 1024 * 2048 == 299_892_736_000  # tokens of the README
    starts = [0, rows // 7, rows // 7 + rows // 2]
    for step in (0, 1, 20_428, 91_928, 142_999):
        first = order.step_rows(step)[0]
        assert starts[first.chunk] + first.start == 1024 * step
    crossing = order.step_rows(rows // 7 // 1024)
    assert [part.chunk for part in crossing] == [0, 1]
    assert sum(part.rows for part in crossing) == 1024


@pytest.mark.parametrize("remainder", ["drop", "carry"])
def test_k2_saves_after_each_chunk_and_predicts_2047_of_2048(remainder):
    """k2-train pretrain_65b.sh and main.py at 869fbb9: 338,760 steps of 2,040 rows, one checkpoint every 941."""
    order = StageOrder((941 * 2040,) * 360, 2040, remainder)
    assert order.num_steps == 338_760
    assert sum(order.is_chunk_end(step) for step in range(0, 338_761, 941)) == 360
    assert order.chunk_of(941) == 1
    assert order.num_steps * 2040 * 2047 == 1_414_621_108_800  # predictions
