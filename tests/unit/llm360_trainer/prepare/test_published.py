import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from llm360.data.rows import Span, read_rows
from llm360.data.verify import verify_data
from llm360.errors import InputError
from llm360.storage import open_storage
from llm360_trainer.prepare.lines import FORMS
from llm360_trainer.prepare.published import ImportSettings, import_rows


@pytest.fixture
def import_here(tmp_path, tokenizer_bytes):
    def run(*paths, out="out", **settings):
        storage = open_storage(str(tmp_path / out))
        given = ImportSettings(tuple(map(str, paths)), **{"tokenizer": tokenizer_bytes, "row_tokens": 4} | settings)
        said = []
        return import_rows(given, storage, say=said.append), storage, said

    return run


def line(*ids, source="c4"):
    return json.dumps({"token_ids": ids, "source": source}) + "\n"


@pytest.fixture
def two_files(tmp_path):
    (tmp_path / "a.jsonl").write_text(line(1, 2, 3, 4) + line(5, 6, 7, 8, source="wiki") + "\n")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress((line(9, 10, 11, 12) + line(1, 1, 1, 1)).encode()))
    return tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"


def test_rows_come_in_their_order_with_their_sources(import_here, two_files):
    manifest, storage, _ = import_here(*two_files, chunks=2)
    assert manifest.chunk_rows == (2, 2)
    assert [(source.name, source.rows) for source in manifest.sources] == [("c4", 3), ("wiki", 1)]
    first, second = (read_rows(storage, manifest, chunk, 0, 2) for chunk in range(2))
    assert first.ids.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert second.ids.tolist() == [[9, 10, 11, 12], [1, 1, 1, 1]]
    assert first.source.tolist() == [0, 1]
    assert second.documents == [[Span(1, 0, 0, 4)], [Span(2, 0, 0, 4)]]
    assert verify_data(storage).ok


def test_import_again_finds_the_data_and_other_arguments_are_refused(import_here, two_files):
    manifest, _, _ = import_here(*two_files)
    again, _, said = import_here(*two_files)
    assert again == manifest
    assert "already there" in said[-1]
    with pytest.raises(InputError, match="chunks was 1, now is 2"):
        import_here(*two_files, chunks=2)


def test_an_import_that_has_lost_a_file_is_told(import_here, two_files):
    manifest, storage, _ = import_here(*two_files)
    shard = manifest.chunks[0].shards[0]
    storage.put(shard.key, b"cut")
    with pytest.raises(InputError, match=f"has lost 1 of .* {shard.key} first; remove manifest.json and import again"):
        import_here(*two_files)
    storage.delete("manifest.json")
    assert import_here(*two_files)[0] == manifest
    assert storage.stat(shard.key).size == shard.bytes


def test_without_a_tokenizer_ids_are_those_of_amber(import_here, two_files):
    manifest, storage, _ = import_here(*two_files, tokenizer=None)
    assert (manifest.tokenizer.key, manifest.tokenizer.digest, manifest.tokenizer.vocab_size) == (None, "", 32_000)
    assert verify_data(storage).ok


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"token_ids": [s1, 2]}', "is not JSON: Expecting value at column 16"),
        (b'{"token_ids": [1, 2, 3, ', "is not JSON: it is cut off inside a list at column 24"),
        (b'{"token_ids": [1, 2, 3, 4]', "is not JSON: it is cut off inside an object"),
        (b'{"token_ids": [1, 2, 3, 4, 5]}', "has 5 ids; a row has 4"),
        (b'{"token_ids": [1, 2, 3, 300]}', "has 300 at position 3; ids are integers from 0 to 299"),
        (b'{"token_ids": [1, -2, 3, 4]}', "has -2 at position 1"),
        (b'{"token_ids": [1, true, 3, 4]}', "has True at position 1"),
        (b'{"token_ids": [1, 2.0, 3, 4]}', "has 2.0 at position 1"),
        (b'{"token_ids": "1 2 3 4"}', "is not a JSON object with a list 'token_ids'"),
        (b"[]", "is not a JSON object"),
        (b'{"token_ids": [1, 2, 3, 4], "source": 5}', "has the source 5"),
        (b"\xff", "is not UTF-8"),
        (b"[" * 100_000, "is "),
    ],
)
def test_what_is_wrong_with_a_line_is_said(data, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        FORMS["amber-jsonl"].parse(data, replace(FORMS["amber-jsonl"], row_tokens=4, vocab_size=300))


def test_bad_lines_are_all_named_or_skipped_and_counted(import_here, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(line(1, 2, 3, 4) + line(1) + "{\n" + line(4, 3, 2, 1))
    with pytest.raises(InputError) as caught:
        import_here(path)
    assert "2 of 4 lines" in caught.value.message
    assert "bad.jsonl line 2 has 1 ids" in caught.value.message
    assert "bad.jsonl line 3 is not JSON" in caught.value.message
    assert not (tmp_path / "out").exists()
    manifest, storage, said = import_here(path, skip_bad=True)
    assert (manifest.rows, manifest.recipe["skipped_lines"]) == (2, 2)
    assert "line 2" in said[0]
    assert read_rows(storage, manifest, 0, 0, 2).ids.tolist() == [[1, 2, 3, 4], [4, 3, 2, 1]]
    assert import_here(path, skip_bad=True)[0] == manifest


def test_many_bad_lines_are_named_up_to_a_limit(import_here, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text("{\n" * 70)
    with pytest.raises(InputError, match="and 20 more") as caught:
        import_here(path)
    assert caught.value.message.count("\n") == 51


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"chunks": 0}, "--chunks is 0"), ({"chunks": 9}, "too few for 9"), ({"row_tokens": 1}, "--row-tokens is 1")],
)
def test_impossible_settings_are_refused(import_here, two_files, settings, message):
    with pytest.raises(InputError, match=message):
        import_here(*two_files, **settings)


def test_other_kinds_of_files_are_refused(import_here, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"is not \.jsonl"):
        import_here(tmp_path / "a.txt")


def test_published_rows_import_and_show_the_ids_they_had(import_here, shared_data):
    tokenizer = (shared_data / "tokenizers/crystalcoder/tokenizer.json").read_bytes()
    path = shared_data / "amber/good_sample.jsonl"
    manifest, storage, _ = import_here(path, tokenizer=tokenizer, row_tokens=2049)
    expected = [json.loads(text)["token_ids"] for text in path.read_text().splitlines()]
    assert read_rows(storage, manifest, 0, 0, 9).ids.tolist() == expected
    assert (manifest.rows, manifest.sequence_length, manifest.tokenizer.eos_id) == (9, 2048, 2)
    assert verify_data(storage).ok


def test_published_bad_rows_are_refused_by_line_or_left_out(import_here, shared_data):
    path = shared_data / "amber/bad_sample.jsonl"
    with pytest.raises(InputError) as caught:
        import_here(path, tokenizer=None, row_tokens=2049)
    named = caught.value.message.splitlines()[1:]
    assert [item.split()[2] for item in named] == ["4", "9", "10"]
    assert "is not JSON" in named[0]
    assert "has 2,050 ids" in named[1]
    assert "cut off inside a list" in named[2]
    manifest, _, _ = import_here(path, tokenizer=None, row_tokens=2049, skip_bad=True)
    assert (manifest.rows, manifest.recipe["skipped_lines"]) == (7, 3)


def crystal_line(ids, mask=None, last=9, **changes):
    value = {"token_ids": ids, "label_ids": [*ids[1:], last]} | ({} if mask is None else {"loss_mask": mask}) | changes
    return json.dumps(value) + "\n"


def test_masks_of_instruction_rows_are_taken_over_as_they_are(import_here, tmp_path):
    path = tmp_path / "instruct.jsonl"
    path.write_text(crystal_line([1, 2, 3], [0, 1, 1]) + crystal_line([4, 5, 6], [1, 0, 0], last=7))
    manifest, storage, _ = import_here(path, form="crystal-jsonl")
    rows = read_rows(storage, manifest, 0, 0, 2)
    assert rows.ids.tolist() == [[1, 2, 3, 9], [4, 5, 6, 7]], "inputs, and the last label"
    assert rows.loss_mask.tolist() == [[0, 1, 1], [1, 0, 0]]
    assert manifest.has_loss_mask
    assert manifest.recipe["format"] == "crystal-jsonl"
    assert verify_data(storage).ok
    labels = np.concatenate([[3, 9], [5]])
    assert manifest.unigram_entropy == pytest.approx(np.log(len(labels))), "of the labels that count"


def test_rows_without_a_mask_get_that_of_the_rule(import_here, tmp_path):
    path = tmp_path / "instruct.jsonl"
    path.write_text(crystal_line([1, 32018, 5, 32019, 6], last=2))
    manifest, storage, _ = import_here(path, form="crystal-jsonl", tokenizer=None, row_tokens=6)
    assert manifest.tokenizer.vocab_size == 32_032
    assert read_rows(storage, manifest, 0, 0, 1).loss_mask.tolist() == [[0, 0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (crystal_line([1, 2, 3], [0, 1]), "has a loss_mask that is no list of 3 numbers"),
        (crystal_line([1, 2, 3], [0, 1, 2]), "has 2 in its loss_mask at position 2"),
        (crystal_line([1, 2, 3], [0, True, 1]), "has True in its loss_mask at position 1"),
        (crystal_line([1, 2, 3], label_ids=[2, 4, 5]), "has the label 4 at position 1, but 3 follows there"),
        (crystal_line([1, 2, 3], label_ids=[2, 3]), "has 2 labels; a row has 3"),
        (crystal_line([1, 2], last=3), "has 2 ids; a row has 3"),
        (json.dumps({"token_ids": [1, 2, 3]}), "is not a JSON object with a list 'label_ids'"),
    ],
)
def test_what_is_wrong_with_an_instruction_row_is_said(line, message):
    form = replace(FORMS["crystal-jsonl"], row_tokens=4)
    with pytest.raises(ValueError, match=message):
        form.parse(line.encode(), form)


def test_k2_rows_have_labels_inside_and_their_chunks_the_order_of_reading(import_here, tmp_path):
    """Each file is a chunk, whatever its rows; chunks 160 and 186 come last."""
    chunks = tmp_path / "chunks"
    chunks.mkdir()
    for chunk in range(360):
        (chunks / f"chunk_{chunk}.jsonl").write_text(line(chunk % 300, 1, 2, 3) * (1 + (chunk == 186)))
    settings = {"row_tokens": 4, "labels": "inside", "chunk_order": "k2"}
    manifest, storage, _ = import_here(chunks, **settings)
    assert (manifest.sequence_length, manifest.predictions, manifest.labels) == (4, 3, "inside")
    assert manifest.chunk_rows == (1,) * 359 + (2,)
    first_ids = [read_rows(storage, manifest, chunk, 0, 1).ids[0, 0] for chunk in (15, 16, 30, 160, 358, 359)]
    assert first_ids == [15, 32, 16, 161, 160, 186]
    (chunks / "chunk_7.jsonl").unlink()
    with pytest.raises(InputError, match="1 of the 360 chunks of k2 are missing, chunk_7 among them"):
        import_here(chunks, out="other", **settings)
    (chunks / "chunk_360.jsonl").write_text(line(1, 1, 2, 3))
    with pytest.raises(InputError, match="is no chunk of k2"):
        import_here(chunks, out="other", **settings)
    with pytest.raises(InputError, match="--chunks has no meaning with --chunk-order"):
        import_here(chunks, out="other", chunks=2, **settings)
