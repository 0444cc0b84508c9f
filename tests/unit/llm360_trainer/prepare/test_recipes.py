import pytest

from llm360.data.verify import verify_data
from llm360.errors import InputError
from llm360.storage import open_storage
from llm360_trainer.prepare import inputs
from llm360_trainer.prepare.recipes import (
    LEFT_OUT,
    RECIPES,
    Recipe,
    RecipeSettings,
    prepare_recipe,
    python_code,
    python_docs,
)


def test_python_carries_enough_text_for_the_small_amber():
    docs, code = list(python_docs()), list(python_code())
    assert len(docs) > 70
    assert all(isinstance(text, str) and text for text in docs)
    assert sum(map(len, docs)) > 400_000
    assert sum(map(len, code)) > 6_000_000
    assert any('"""Random variable generators.' in text for text in code)
    assert "pydoc_data" in LEFT_OUT  # the documentation would stand in both sources


@pytest.fixture
def small_recipe(monkeypatch):
    texts = list(python_docs())
    recipe = Recipe({"docs": lambda: texts[:3], "code": lambda: texts[3:12]}, RECIPES["python-stdlib"].weights)
    monkeypatch.setitem(RECIPES, "small", recipe)
    return "small"


def make(name, folder, in_process, **changes):
    settings = {"sequence_length": 16, "vocab_size": 500, "chunks": 2, "batch_size": 3, "seed": 5} | changes
    storage = open_storage(str(folder))
    return prepare_recipe(RecipeSettings(name, **settings), storage, session=in_process), storage


def test_recipe_makes_data_of_a_size_that_fits_the_batch(small_recipe, tmp_path, in_process):
    manifest, storage = make(small_recipe, tmp_path / "a", in_process)
    assert manifest.chunk_rows == (61, 61)
    assert [source.name for source in manifest.sources] == ["docs", "code"]
    assert manifest.tokenizer.vocab_size == 500
    assert manifest.recipe["recipe"] == "small"
    assert verify_data(storage).ok
    assert not list((tmp_path / "a").rglob("*.jsonl"))
    again, _ = make(small_recipe, tmp_path / "b", in_process)
    assert again == manifest


def test_recipe_takes_all_where_the_text_is_short(small_recipe, tmp_path, in_process):
    manifest, _ = make(small_recipe, tmp_path, in_process, batch_size=10_000)
    assert any(source.dropped_tokens < 2 * manifest.row_tokens for source in manifest.sources)


def test_unknown_recipe_is_refused(tmp_path, in_process):
    with pytest.raises(InputError, match="recipes are python-stdlib"):
        make("nothing", tmp_path, in_process)


@pytest.mark.parametrize("step", ["find_files", "digest_files"])
@pytest.mark.parametrize("times", [1, 2])
def test_texts_that_another_process_removes_before_the_work_are_put_again(
    small_recipe, tmp_path, in_process, monkeypatch, step, times
):
    """Others make the same and finish, one at each try, before this one has looked for its texts or read them."""
    take, left = getattr(inputs, step), [times]

    def overtaken(*given):
        if left[0]:
            left[0] -= 1
            with monkeypatch.context() as other:
                other.setattr(inputs, step, take)
                make(small_recipe, tmp_path, in_process)
        return take(*given)

    monkeypatch.setattr(inputs, step, overtaken)
    manifest, storage = make(small_recipe, tmp_path, in_process)
    assert left == [0]
    assert verify_data(storage).ok
    assert manifest.recipe["recipe"] == "small"
    assert not (tmp_path / "scratch").exists()


def test_texts_that_go_otherwise_are_told(small_recipe, tmp_path, in_process, monkeypatch):
    find, tries = inputs.find_files, []

    def lose(path, options):
        tries.append(path)
        (tmp_path / "scratch/small/code.jsonl").unlink(missing_ok=True)
        return find(path, options)

    monkeypatch.setattr(inputs, "find_files", lose)
    with pytest.raises(InputError, match=r"no input at \S+/scratch/small/code\.jsonl"):
        make(small_recipe, tmp_path, in_process)
    assert len(tries) == 2, "one try, of both sources"


@pytest.mark.slow
def test_python_stdlib_gives_the_rows_of_amber_tiny(tmp_path, in_process):
    manifest, storage = make(
        "python-stdlib", tmp_path, in_process, sequence_length=256, vocab_size=4096, chunks=8, batch_size=32, seed=1
    )
    assert manifest.chunk_rows == (650,) * 8
    assert [source.rows for source in manifest.sources] == [416, 4784]
    assert 6 < manifest.unigram_entropy < 7
    assert verify_data(storage).ok
