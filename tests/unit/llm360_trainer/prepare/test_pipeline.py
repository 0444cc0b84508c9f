import itertools
import math
import shutil
from collections import Counter
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llm360.data.held_out import HeldOut
from llm360.data.manifest import load_manifest
from llm360.data.rows import read_rows
from llm360.data.verify import verify_data
from llm360.errors import InputError, IntegrityError, ObjectNotFoundError
from llm360_trainer.prepare.publish import differences
from llm360_trainer.prepare.runner import InProcess
from llm360_trainer.prepare.tokenize import load_tokenizer

DOCUMENTS = {
    "a": [f"document {number} of a" * (number % 4) for number in range(40)],
    "b": [f"b says {number}: naïve 🦊" for number in range(25)],
}


def all_rows(manifest, storage):
    """Every row in training order: (ids, source, spans)."""
    for chunk, rows in enumerate(manifest.chunk_rows):
        found = read_rows(storage, manifest, chunk, 0, rows)
        yield from zip(found.ids.tolist(), found.source.tolist(), found.documents, strict=True)


def contents(storage):
    return {info.key: storage.get(info.key) for info in storage.list()}


@pytest.fixture
def sources(write_lines):
    return [f"{name}={write_lines(f'{name}.txt', documents)}" for name, documents in DOCUMENTS.items()]


def test_rows_in_input_order_are_the_documents_end_to_end(prepare_here, sources, tokenizer_bytes):
    manifest, storage = prepare_here(*sources, shuffle="none")
    tokenizer = load_tokenizer(tokenizer_bytes)
    for number, documents in enumerate(DOCUMENTS.values()):
        ids = [item for text in documents for item in [*tokenizer.encode(text, add_special_tokens=False).ids, 0]]
        rows = [row for row, source, _ in all_rows(manifest, storage) if source == number]
        stored = [item for row in rows for item in row]
        assert stored == ids[: len(stored)]
        source = manifest.sources[number]
        assert source.dropped_tokens == len(ids) - len(stored) < manifest.row_tokens
        assert (source.documents, source.tokens, source.rows) == (len(documents), len(ids), len(rows))
    assert [source for _, source, _ in all_rows(manifest, storage)] == [0] * manifest.sources[0].rows + [
        1
    ] * manifest.sources[1].rows


def test_shuffle_moves_rows_and_loses_none(prepare_here, sources):
    plain = list(map(str, all_rows(*prepare_here(*sources, shuffle="none", out="plain"))))
    mixed = list(map(str, all_rows(*prepare_here(*sources, seed=1, out="mixed"))))
    other = list(map(str, all_rows(*prepare_here(*sources, seed=2, out="other"))))
    assert sorted(plain) == sorted(mixed) == sorted(other)
    assert len({tuple(plain), tuple(mixed), tuple(other)}) == 3


def test_spans_lead_back_to_the_text(prepare_here, sources, tokenizer_bytes):
    manifest, storage = prepare_here(*sources)
    tokenizer = load_tokenizer(tokenizer_bytes)
    encoded = [
        [[*tokenizer.encode(text, add_special_tokens=False).ids, 0] for text in documents]
        for documents in DOCUMENTS.values()
    ]
    for ids, source, spans in all_rows(manifest, storage):
        for span in spans:
            original = encoded[source][span.document][span.offset : span.offset + span.length]
            assert ids[span.start : span.start + span.length] == original
        assert sum(span.length for span in spans) == manifest.row_tokens


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=12)
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=40), min_size=8),
    sequence_length=st.integers(1, 6),
    chunks=st.integers(1, 3),
    shuffle=st.sampled_from(["global", "none"]),
    cuts=st.tuples(st.integers(1, 200), st.integers(1, 300)),
)
def test_cuts_of_the_work_never_show(prepare_here, write_lines, texts, sequence_length, chunks, shuffle, cuts):
    number = next(EXAMPLES)
    path = write_lines(f"{number}.txt", ["start", *texts])
    options = {"chunks": chunks, "sequence_length": sequence_length, "shuffle": shuffle}
    one, one_storage = prepare_here(f"x={path}", out=f"one-{number}", **options)
    two, two_storage = prepare_here(
        f"x={path}", out=f"two-{number}", block_chars=cuts[0], run_bytes=cuts[1], session=Backwards, **options
    )
    assert one == two
    assert contents(one_storage) == contents(two_storage)
    assert verify_data(one_storage).ok


EXAMPLES = itertools.count()


class Backwards(InProcess):
    """Gives results in the opposite order, as a busy machine might."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def map(self, work, items):
        return reversed([work(item) for item in items])

    def expand(self, expand, work, items):
        return reversed([work(block) for item in reversed(items) for block in expand(item)])


def test_weights_set_the_shares_and_what_is_not_taken_is_counted(prepare_here, sources):
    everything, _ = prepare_here(*sources, out="all")
    available = [source.rows for source in everything.sources]
    manifest, storage = prepare_here(f"{sources[0]}:1", f"{sources[1]}:3", out="mix")
    a, b = manifest.sources
    assert (a.weight, b.weight) == (1.0, 3.0)
    assert b.rows == available[1]
    assert abs(3 * a.rows - b.rows) < 4
    assert a.dropped_tokens == a.tokens - a.rows * manifest.row_tokens
    assert verify_data(storage).ok


def test_counts_add_up_and_entropy_is_that_of_the_labels(prepare_here, sources):
    manifest, storage = prepare_here(*sources, chunks=3, max_rows=50)
    rows = list(all_rows(manifest, storage))
    assert len(rows) == manifest.rows == 50
    assert manifest.chunk_rows == (17, 17, 16)
    assert Counter(source for _, source, _ in rows) == {
        number: source.rows for number, source in enumerate(manifest.sources)
    }
    labels = np.array([ids[1:] for ids, _, _ in rows])
    _, counts = np.unique(labels, return_counts=True)
    shares = counts / counts.sum()
    assert math.isclose(manifest.unigram_entropy, float(-(shares * np.log(shares)).sum()), rel_tol=1e-12)


def test_scratch_is_gone_when_the_data_is_there(prepare_here, sources):
    manifest, storage = prepare_here(*sources)
    shards = {shard.key for chunk in manifest.chunks for shard in chunk.shards}
    assert set(contents(storage)) == shards | {"manifest.json", "tokenizer.json"}


def test_same_arguments_find_the_data_and_do_nothing(prepare_here, sources):
    first, storage = prepare_here(*sources)
    before = contents(storage)
    said = []
    second, _ = prepare_here(*sources, say=said.append, session=None)  # would start Ray if there were work
    assert second == first
    assert "already there" in said[-1]
    assert contents(storage) == before


def test_other_arguments_are_refused_naming_each(prepare_here, sources, write_lines):
    _, storage = prepare_here(*sources)
    before = contents(storage)
    write_lines("a.txt", ["something else"] * 50)
    with pytest.raises(InputError) as caught:
        prepare_here(*sources, seed=4, chunks=1, shuffle="none")
    assert caught.value.reason == "DataDiffers"
    for named in ("seed was 3, now is 4", "chunks was 2, now is 1", "shuffle was global", "sources[a].digest was"):
        assert named in caught.value.message
    assert "sources[b]" not in caught.value.message
    assert contents(storage) == before


def test_differences_name_the_member():
    assert list(differences({"a": 1, "b": [1]}, {"a": 1, "b": [2]})) == ["b[0] was 1, now is 2"]


def test_versions_of_libraries_make_no_other_data(prepare_here, sources):
    manifest, storage = prepare_here(*sources)
    older = manifest.model_copy(update={"recipe": manifest.recipe | {"made_with": {"tokenizers": "0.1"}}})
    storage.put("manifest.json", older.to_bytes())
    assert prepare_here(*sources)[0] == older


class InterruptedHereError(Exception):
    """Stands for a kill at that moment."""


class StopsAfter(Backwards):
    """Ends after so many results of all steps together."""

    def __init__(self, results):
        self.left = results

    def map(self, work, items):
        return self._counted(super().map(work, items))

    def expand(self, expand, work, items):
        return self._counted(work(block) for item in items for block in expand(item))

    def _counted(self, results):
        for result in results:
            yield result
            self.left -= 1
            if self.left == 0:
                raise InterruptedHereError


def test_preparation_interrupted_anywhere_goes_on_to_the_same_bytes(prepare_here, sources):
    cuts = {"block_chars": 200, "run_bytes": 400}
    _, expected = prepare_here(*sources, out="whole", **cuts)
    steps = Count()
    prepare_here(*sources, out="counted", session=lambda: steps, **cuts)
    assert steps.results > 12
    for stop in range(1, steps.results, 3):
        with pytest.raises(InterruptedHereError):
            prepare_here(*sources, out=f"at-{stop}", session=lambda stop=stop: StopsAfter(stop), **cuts)
        rest = Count()
        _, storage = prepare_here(*sources, out=f"at-{stop}", session=lambda rest=rest: rest, **cuts)
        assert contents(storage) == contents(expected)
        assert rest.results < steps.results


class Count(Backwards):
    """Counts the work done."""

    def __init__(self):
        self.results = 0

    def _one(self, work):
        def counted(item):
            self.results += 1
            return work(item)

        return counted

    def map(self, work, items):
        return super().map(self._one(work), items)

    def expand(self, expand, work, items):
        return super().expand(expand, self._one(work), items)


def test_bad_line_leaves_nothing_behind(prepare_here, tmp_path, write_lines):
    good = write_lines("good.txt", ["fine"] * 100)
    (tmp_path / "bad.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    with pytest.raises(InputError, match=r"bad\.jsonl line 2"):
        prepare_here(f"good={good}", f"bad={tmp_path}/bad.jsonl")
    assert not list((tmp_path / "out").rglob("*.parquet")) + list((tmp_path / "out").rglob("parts"))


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl"])
@pytest.mark.parametrize("is_alone", [True, False])
def test_a_source_without_text_is_named(prepare_here, sources, tmp_path, name, is_alone):
    (tmp_path / name).touch()
    others = [] if is_alone else sources
    with pytest.raises(InputError, match="source nothing has too little text to fill one row"):
        prepare_here(*others, f"nothing={tmp_path}/{name}")
    assert not list((tmp_path / "out").rglob("*"))


@pytest.fixture
def prepared(prepare_here, write_lines):
    """A data set of several shards with documents held out, its store, and how to prepare it again."""
    texts = [f"text {number} of many" for number in range(90)]
    again = partial(prepare_here, f"x={write_lines('x.txt', texts)}", chunks=4, held_out=HeldOut(Fraction(1, 10), 0))
    return *again(), again


@pytest.mark.parametrize("lost", ["all", "one", "cut", "held_out", "tokenizer"])
def test_what_is_lost_is_made_again(prepared, lost):
    manifest, storage, again = prepared
    before = contents(storage)
    shards = [key for key in before if key.startswith("rows-")]
    held_out = [key for key in before if key.startswith("held-out-")]
    gone = {"all": shards + held_out, "one": shards[1:2], "held_out": held_out, "tokenizer": ["tokenizer.json"]}
    for key in gone.get(lost, []):
        storage.delete(key)
    if lost == "cut":
        storage.put(shards[2], before[shards[2]][:-1])
    said = []
    assert again(say=said.append)[0] == manifest
    assert contents(storage) == before
    number = len(gone.get(lost, shards[2:3]))
    if lost != "tokenizer":
        assert f"has lost {number} of the {len(before) - 2} files that its manifest.json names" in said[1]
    assert again(say=said.append, session=None)[0] == manifest
    assert "already there" in said[-1]


def test_only_what_is_lost_is_written(prepared, tmp_path):
    _, _, again = prepared
    shards = [path for path in (tmp_path / "out").rglob("*.parquet") if "rows-" in str(path)]
    ages = {path: path.stat().st_mtime_ns for path in shards[1:]}
    shards[0].unlink()
    again()
    assert {path: path.stat().st_mtime_ns for path in ages} == ages


def test_what_cannot_be_made_again_is_told(prepared):
    manifest, storage, again = prepared
    shards = [shard for chunk in manifest.chunks for shard in chunk.shards]
    storage.delete(shards[0].key)

    other = shards[0].model_copy(update={"sha256": "sha256:" + "0" * 64})
    chunk = manifest.chunks[0].model_copy(update={"shards": (other, *manifest.chunks[0].shards[1:])})
    storage.put("manifest.json", manifest.model_copy(update={"chunks": (chunk, *manifest.chunks[1:])}).to_bytes())
    with pytest.raises(IntegrityError, match=f"1 file made again, {shards[0].key} first, would not have the bytes"):
        again()
    assert not storage.exists(shards[0].key)
    assert not list(storage.list("scratch/"))

    recipe = manifest.recipe | {"made_with": manifest.recipe["made_with"] | {"pyarrow": "1.0"}}
    storage.put("manifest.json", manifest.model_copy(update={"recipe": recipe}).to_bytes())
    with pytest.raises(
        InputError, match=r"has lost 1 of .* other bytes \(pyarrow was 1\.0, now is .*\): use those"
    ) as caught:
        again(session=None)
    assert caught.value.reason == "DataIncomplete"


class Overtaken(Backwards):
    """Another process makes the same and finishes, or the scratch files go, before the result of that number."""

    def __init__(self, results, happens):
        self.left, self.happens = results, happens

    def map(self, work, items):
        return self._counted(work, items)

    def expand(self, expand, work, items):
        return self._counted(work, (block for item in items for block in expand(item)))

    def _counted(self, work, items):
        for item in items:
            self.left -= 1
            if self.left == 0:
                self.happens()
            yield work(item)


def test_of_two_preparations_the_later_goes_on_with_what_the_first_made(prepare_here, sources):
    cuts = {"block_chars": 200, "run_bytes": 400}
    steps = Count()
    expected, whole = prepare_here(*sources, out="whole", session=lambda: steps, **cuts)
    found = 0
    for number in range(1, steps.results + 1, 2):
        out, said = f"both-{number}", []
        overtaken = Overtaken(number, lambda out=out: prepare_here(*sources, out=out, **cuts))
        manifest, storage = prepare_here(
            *sources, out=out, session=lambda over=overtaken: over, say=said.append, **cuts
        )
        assert manifest == expected
        assert contents(storage) == contents(whole)
        found += "already there" in said[-1]
    assert found > 3


def test_scratch_files_that_went_away_otherwise_are_told(prepare_here, sources, tmp_path):
    session = Overtaken(13, lambda: shutil.rmtree(tmp_path / "out/scratch"))
    with pytest.raises(ObjectNotFoundError, match="does not exist"):
        prepare_here(*sources, session=lambda: session, block_chars=200, run_bytes=400)


def test_large_vocabulary_takes_four_bytes_an_id(prepare_here, sources):
    from tokenizers import AddedToken, Tokenizer

    tokenizer = Tokenizer.from_str(prepare_here(*sources, out="x")[1].get("tokenizer.json").decode())
    tokenizer.add_special_tokens([AddedToken(f"<{number}>", special=True) for number in range(65_400)])
    manifest, storage = prepare_here(*sources, tokenizer=tokenizer.to_str().encode(), eos="<65399>", out="y")
    assert manifest.dtype == "uint32"
    assert manifest.tokenizer.eos_id == 65_699
    assert verify_data(storage).ok


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sequence_length": 0}, "--sequence-length is 0"),
        ({"chunks": 0}, "--chunks is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"max_rows": 0}, "--max-rows is 0"),
        ({"chunks": 100_000}, "too few for 100000 chunks"),
        ({"sequence_length": 2**20}, "too little text"),
        ({"eos": "</s>"}, "no token or id '</s>'"),
        ({"tokenizer": b"{}"}, "not a `tokenizer.json`"),
    ],
)
def test_impossible_settings_are_refused_and_nothing_is_there(prepare_here, sources, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        prepare_here(*sources, **changes)
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_progress_ends_at_all_of_each_step(prepare_here, sources):
    seen = {}
    prepare_here(*sources, progress=lambda stage, done, total, _: seen.update({stage: (done, total)}))
    assert list(seen) == ["tokenizing", "sorting", "writing"]
    assert all(done == total for done, total in seen.values())


def test_manifest_in_the_store_is_the_one_returned(prepare_here, sources):
    manifest, storage = prepare_here(*sources)
    assert load_manifest(storage)[0] == manifest
