import gzip
import json

import pytest

from llm360.data.rows import Span, read_rows
from llm360.data.verify import verify_data
from llm360.errors import InputError
from llm360.storage import open_storage
from llm360_trainer.prepare.amber import ImportSettings, import_amber, parse_row


@pytest.fixture
def import_here(tmp_path, tokenizer_bytes):
    def run(*paths, out="out", **settings):
        storage = open_storage(str(tmp_path / out))
        given = ImportSettings(tuple(map(str, paths)), **{"tokenizer": tokenizer_bytes, "row_tokens": 4} | settings)
        said = []
        return import_amber(given, storage, say=said.append), storage, said

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
        parse_row(data, 4, 300)


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
    [({"chunks": 0}, "--chunks is 0"), ({"chunks": 9}, "too few for 9"), ({"row_tokens": 1}, "--row-tokens 1")],
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
