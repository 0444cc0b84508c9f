"""Reading YAML as a Kubernetes user writes it."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm360.errors import InputError
from llm360.spec import documents


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("32_000", 32000),
        ("0", 0),
        ("-7", -7),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        # These stay strings: YAML 1.1 makes booleans, octals, times and dates of them.
        ("yes", "yes"),
        ("off", "off"),
        ("0123", "0123"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("1e", "1e"),
        (".", "."),
        ('{"a": [1, 2.5]}', {"a": [1, 2.5]}),
        ("[1, two]", [1, "two"]),
        ("a: b: c", "a: b: c"),
        ("'12'", "12"),
        ("1e999", "1e999"),
    ],
)
def test_value_of_set(text, value):
    found = documents.parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_long_document_is_refused():
    with pytest.raises(InputError, match=r"big\.yaml: is longer than 1 MiB"):
        documents.parse("a: " + "x" * documents.MAX_CHARACTERS, "big.yaml")


def test_deep_nesting_is_refused():
    with pytest.raises(InputError, match=r"deep\.yaml: not readable as YAML"):
        documents.parse("[" * 1500, "deep.yaml")


def test_bytes_that_are_no_text_are_refused():
    stream = io.TextIOWrapper(io.BytesIO(b"a: \xff"), encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.yaml: not readable as text: byte 3 is not UTF-8"):
        documents.read(stream, "x.yaml")


@pytest.mark.parametrize("text", ["!!binary aGk=", "!!set {a, b}", '"\\ud800"', "!!float .inf"])
def test_value_that_json_lacks_is_refused(text):
    with pytest.raises(InputError, match=r"x\.yaml: (holds something that JSON has no form for|not readable as YAML)"):
        documents.parse(f"a: {text}", "x.yaml")
    assert documents.parse_value(text) == text


# PyYAML folds the "next line" control character into spaces when it writes; no specification holds one.
texts = st.text(st.characters(exclude_characters="\x85", exclude_categories=["Cs"]), max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(texts, json_values, min_size=1, max_size=4))
def test_what_is_dumped_is_read_again(value):
    assert documents.parse(documents.dump(value), "x") == value
