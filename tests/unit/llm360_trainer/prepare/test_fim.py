"""Fill-in-the-middle on rows: what is turned around, cut, padded and masked, and whom each id belongs to."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360.data.rows import Span
from llm360.errors import InputError
from llm360_trainer.prepare.fim import FimRates, RowTurner, find_sentinels, parse_fim
from llm360_trainer.prepare.tokenize import END_OF_TEXT, FIM_SENTINELS, load_tokenizer, train_tokenizer

TEXTS = ["def add(a, b):\n    return a + b\n", "for i in range(9): print(i, 'naïve')", "x", "", "日本語 🦊"]
EOS = 0


@pytest.fixture(scope="session")
def code_tokenizer():
    """Its ids 1 to 4 are the sentinels."""
    return load_tokenizer(train_tokenizer(TEXTS * 20, 300, sentinels=True))


def pack(tokenizer, texts, row_tokens):
    """The first row of the texts put end to end, and its documents."""
    ids, spans = [], []
    for number, text in enumerate(texts):
        start = len(ids)
        ids += [*tokenizer.encode(text, add_special_tokens=False).ids, EOS]
        if start < row_tokens:
            spans.append(Span(number, 0, start, min(len(ids), row_tokens) - start))
    return np.array(ids[:row_tokens], np.uint16), spans


def turner(tokenizer, rate=1.0, spm_rate=0.5, seed=0, **others):
    return RowTurner(tokenizer, EOS, FimRates(rate, spm_rate), seed, "code", **others)


def text_of(tokenizer, ids, sentinels):
    """The text that a turned document was made of, and whether its suffix stands first; None where it is not whole."""
    ids = list(ids)
    if ids[:1] != [sentinels.prefix] or sentinels.middle not in ids or sentinels.suffix not in ids:
        return None
    suffix, middle = ids.index(sentinels.suffix), ids.index(sentinels.middle)
    if suffix == 1:  # SPM: prefix and middle stand together behind the suffix
        parts = (ids[middle + 1 :], ids[2:middle])
    else:
        parts = (ids[1:suffix], ids[middle + 1 :], ids[suffix + 1 : middle])
    return "".join(tokenizer.decode(part) for part in parts), suffix == 1


def test_sentinels_are_found_by_either_name_or_named(code_tokenizer, tokenizer_bytes):
    assert find_sentinels(code_tokenizer) == (1, 2, 3, 4)
    with pytest.raises(InputError) as caught:
        find_sentinels(load_tokenizer(tokenizer_bytes))
    assert caught.value.reason == "SentinelsMissing"
    assert "has no <|fim_prefix|>, <|fim_middle|>, <|fim_suffix|>, <|fim_pad|>" in caught.value.message


def test_tokenizer_keeps_its_end_of_text_and_learns_the_sentinels(code_tokenizer):
    assert [code_tokenizer.id_to_token(number) for number in range(5)] == [END_OF_TEXT, *FIM_SENTINELS]


@pytest.mark.parametrize("spm_rate", [0.0, 1.0])
def test_a_whole_document_keeps_its_text_in_the_other_order(code_tokenizer, spm_rate):
    sentinels = find_sentinels(code_tokenizer)
    ids, spans = pack(code_tokenizer, TEXTS[:1], 60)
    ids = np.pad(ids, (0, 60 - len(ids)), constant_values=9)
    spans = [*spans, Span(1, 0, spans[0].length, 60 - spans[0].length)]
    (row,) = turner(code_tokenizer, spm_rate=spm_rate).turn([(7, ids, spans)])
    first = row.spans[0]
    document = row.ids[: first.length].tolist()
    assert document.pop() == EOS
    assert text_of(code_tokenizer, document, sentinels) == (TEXTS[0], spm_rate == 1.0)


def test_a_row_that_shrinks_is_padded_and_masked(code_tokenizer):
    """One letter an id takes more ids than the same text tokenized whole, so the row gets shorter."""
    letters = code_tokenizer.encode("x", add_special_tokens=False).ids
    spelled = [number for letter in TEXTS[0] for number in code_tokenizer.encode(letter, add_special_tokens=False).ids]
    ids = np.array([*spelled, EOS, *letters], np.uint16)
    spans = [Span(5, 3, 0, len(spelled) + 1), Span(6, 0, len(spelled) + 1, 1)]
    (row,) = turner(code_tokenizer).turn([(0, ids, spans)])
    padding = row.ids == find_sentinels(code_tokenizer).pad
    assert padding.any()
    end = int(np.argmax(padding))
    assert padding[end:].all()
    assert row.ids[end - 1] == EOS, "the last label that counts"
    assert row.loss_mask.tolist() == [1] * (end - 1) + [0] * (len(ids) - end)
    assert (row.spans[0].document, row.spans[0].offset) == (5, 3)


def test_empty_documents_lose_their_end_as_in_the_original(code_tokenizer):
    ids, spans = pack(code_tokenizer, ["x", "", "", "x", TEXTS[0]], 12)
    (row,) = turner(code_tokenizer, rate=1e-12).turn([(0, ids, spans)])
    x = ids[0]
    assert row.ids.tolist()[:4] == [x, EOS, x, EOS]
    assert [span.document for span in row.spans] == [0, 3, 4]


@settings(max_examples=60)
@given(
    texts=st.lists(st.sampled_from(TEXTS) | st.text(max_size=30), min_size=1, max_size=6),
    row_tokens=st.integers(2, 50),
    rate=st.sampled_from([0.3, 0.9, 1.0]),
    seed=st.integers(0, 99),
    labels_inside=st.booleans(),
)
def test_every_row_keeps_its_length_and_only_padding_is_masked(
    code_tokenizer, texts, row_tokens, rate, seed, labels_inside
):
    filler = ["filler text to make the row full"] * 4
    rows = [(number, *pack(code_tokenizer, [*texts, *filler], row_tokens)) for number in range(3)]
    turned = list(turner(code_tokenizer, rate, seed=seed, labels_inside=labels_inside).turn(rows))
    pad = find_sentinels(code_tokenizer).pad
    for (_, ids, spans), row in zip(rows, turned, strict=True):
        assert row.ids.shape == ids.shape
        assert row.ids.dtype == ids.dtype
        assert np.array_equal(row.loss_mask, row.ids[1:] != pad)
        assert {span.document for span in row.spans} <= {span.document for span in spans}
        ends = np.cumsum([span.length for span in row.spans])
        assert [span.start for span in row.spans] == [0, *ends[:-1].tolist()]
        assert ends[-1] == row_tokens
    alone = [next(turner(code_tokenizer, rate, seed=seed, labels_inside=labels_inside).turn([row])) for row in rows]
    assert all(np.array_equal(one.ids, other.ids) for one, other in zip(turned, alone, strict=True))


def test_rates_are_kept_over_many_documents(code_tokenizer):
    sentinels = find_sentinels(code_tokenizer)
    ids, spans = pack(code_tokenizer, ["x", "x"], 4)
    rows = [(number, ids, spans) for number in range(4000)]
    first = [row.ids[:3].tolist() for row in turner(code_tokenizer, 0.9, 0.25).turn(rows)]
    turned = [row for row in first if row[0] == sentinels.prefix]
    spm = [row for row in turned if row[1] == sentinels.suffix and row[2] != sentinels.middle]
    assert len(turned) / len(first) == pytest.approx(0.9, abs=0.02)
    # In PSM the suffix's sentinel comes second where the prefix is empty; then the suffix is "x" in one of three cuts.
    assert 0.1 < len(spm) / len(turned) < 0.35


def test_rows_may_be_turned_around_as_a_whole(code_tokenizer):
    """As K2's: all documents of half of the rows, and of these half with every suffix first."""
    sentinels = find_sentinels(code_tokenizer)
    text = "for i in range(9): print(i)"
    ids, spans = pack(code_tokenizer, [text] * 4, 200)
    ids = np.pad(ids, (0, 240 - len(ids)), constant_values=9)
    spans = [*spans, Span(4, 0, sum(span.length for span in spans), 240 - sum(span.length for span in spans))]
    rows = [(number, ids, spans) for number in range(300)]
    turned = []
    for row in RowTurner(code_tokenizer, EOS, FimRates(0.5, 0.5, by_row=True), 0, "code").turn(rows):
        starts = {int(row.ids[span.start]) == sentinels.prefix for span in row.spans[:4]}
        assert len(starts) == 1, "all documents of a row, or none"
        turned += starts
    assert sum(turned) / len(turned) == pytest.approx(0.5, abs=0.1)


def test_draws_follow_seed_source_and_row_alone(code_tokenizer):
    ids, spans = pack(code_tokenizer, TEXTS, 40)
    (one,) = turner(code_tokenizer, seed=1).turn([(3, ids, spans)])
    (same,) = turner(code_tokenizer, seed=1).turn([(3, ids, spans)])
    (other_row,) = turner(code_tokenizer, seed=1).turn([(4, ids, spans)])
    (other_seed,) = turner(code_tokenizer, seed=2).turn([(3, ids, spans)])
    assert np.array_equal(one.ids, same.ids)
    assert not np.array_equal(one.ids, other_row.ids)
    assert not np.array_equal(one.ids, other_seed.ids)


def test_rates_on_the_command_line():
    assert parse_fim("code=0.9/0.25") == ("code", FimRates(0.9, 0.25))
    assert parse_fim("code=1") == ("code", FimRates(1.0, 0.5))


@pytest.mark.parametrize("wrong", ["code", "code=", "=0.5", "code=0", "code=1.1", "code=0.5/2", "code=x", "code=nan"])
def test_rates_out_of_range_are_refused(wrong):
    with pytest.raises(InputError, match="is not SOURCE=RATE"):
        parse_fim(wrong)
