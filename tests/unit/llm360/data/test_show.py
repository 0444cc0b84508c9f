import pytest

from llm360.data.order import StageOrder
from llm360.data.show import show_step
from llm360.errors import InputError, IntegrityError


def show(data, step, sample=None, remainder="drop", batch=3):
    return show_step(data.storage, data.manifest, StageOrder(data.manifest.chunk_rows, batch, remainder), step, sample)


def test_step_shows_its_rows_with_their_places_sources_and_documents(small_data):
    shown = show(small_data, 1)
    assert [(item.sample, item.chunk, item.row, item.source) for item in shown] == [
        (0, 1, 0, "even"),
        (1, 1, 1, "odd"),
        (2, 1, 2, "even"),
    ]
    first, second = shown[1].pieces
    assert (first.document, first.offset, first.start, first.length) == (4, 5, 0, 2)
    assert (second.document, second.offset, second.start, second.length) == (5, 0, 2, 3)
    assert shown[1].ids == tuple(small_data.ids[5].tolist())
    assert "document 5 of odd, its tokens 0 to 2, at positions 2 to 4" in shown[1].to_text()


def test_one_sample_is_the_same_as_in_the_whole_step_also_across_chunks(small_data):
    for step in range(3):
        whole = show(small_data, step, remainder="carry")
        assert [item.sample for item in whole] == [0, 1, 2]
        assert [show(small_data, step, sample, "carry")[0] for sample in range(3)] == whole
    assert [(item.chunk, item.row) for item in show(small_data, 1, remainder="carry")] == [(0, 3), (1, 0), (1, 1)]


def test_text_is_decoded_by_the_tokenizer_beside_the_data(small_data):
    row = show(small_data, 0, 0)[0]
    assert row.pieces[0].text is not None
    assert row.pieces[0].text in row.to_text()


def test_without_a_tokenizer_ids_are_shown(small_data):
    small_data.store(tokenizer=small_data.manifest.tokenizer.model_copy(update={"key": None}))
    assert "0 1 2 3 4" in show(small_data, 0, 0)[0].to_text()


@pytest.mark.parametrize(("step", "sample"), [(-1, None), (3, None), (0, 3), (0, -1)])
def test_steps_and_samples_that_do_not_exist_are_refused(small_data, step, sample):
    with pytest.raises(InputError, match="there is no"):
        show(small_data, step, sample)


def test_changed_tokenizer_is_refused_before_it_is_used(small_data):
    small_data.storage.put("tokenizer.json", b"{}")
    with pytest.raises(IntegrityError, match=r"tokenizer\.json has sha256"):
        show(small_data, 0)
