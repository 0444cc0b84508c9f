import json

import pytest

from llm360.canonical import canonical_json, sha256_digest
from llm360.data.manifest import load_manifest, parse_manifest
from llm360.errors import InputError
from llm360.storage import open_storage


def test_manifest_comes_back_as_stored_with_the_digest_of_its_bytes(small_data):
    manifest, digest = load_manifest(small_data.storage)
    assert manifest == small_data.manifest
    assert digest == sha256_digest(small_data.storage.get("manifest.json"))
    assert canonical_json(json.loads(manifest.to_bytes())) == manifest.to_bytes()


def test_counts_are_those_of_rows_and_predictions(small_data):
    manifest = small_data.manifest
    assert (manifest.rows, manifest.chunk_rows) == (10, (4, 6))
    assert (manifest.sequence_length, manifest.predictions) == (4, 4)


def test_labels_inside_the_row_make_the_sequence_as_long_as_the_row(small_data):
    manifest = small_data.manifest.model_copy(update={"labels": "inside"})
    assert (manifest.sequence_length, manifest.predictions) == (5, 4)


def test_missing_manifest_says_that_there_is_no_data(tmp_path):
    with pytest.raises(InputError, match="no prepared data") as caught:
        load_manifest(open_storage(str(tmp_path)))
    assert caught.value.reason == "DataMissing"


def changed(small_data, change):
    value = json.loads(small_data.manifest.to_bytes())
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda value: value["chunks"][0].update(rows=5), "its shards hold 4"),
        (lambda value: value["sources"][0].update(rows=6), "sources gave 11"),
        (lambda value: value.update(surprise=1), "surprise"),
        (lambda value: value.update(format="llm360-data/2"), "format"),
        (lambda value: value["tokenizer"].update(vocab_size=70_000), "uint16 cannot hold"),
        (lambda value: value["chunks"][0]["shards"][0].update(sha256="sha256:12"), "sha256"),
        (lambda value: value.update(chunks=[]), "chunks"),
    ],
)
def test_contradictions_are_refused_by_name(small_data, change, named):
    with pytest.raises(InputError, match=named) as caught:
        parse_manifest(changed(small_data, change))
    assert caught.value.reason == "DataInvalid"


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_anything_that_is_no_manifest_is_an_input_error(data):
    with pytest.raises(InputError, match="not a data manifest"):
        parse_manifest(data)
