"""Stages before training: their data found or made, checked against each other, and put one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from llm360.canonical import sha256_digest
from llm360.data.held_out import read_held_out
from llm360.data.manifest import MANIFEST_KEY
from llm360.errors import InputError
from llm360.spec import ResolvedRun
from llm360.storage import StorageOptions, open_storage
from llm360_trainer.driver import stages as module
from llm360_trainer.driver.stages import StageTokenizer, check_tokenizers, plan_stages
from llm360_trainer.prepare.recipes import RECIPES, Recipe, RecipeSettings, prepare_recipe, python_docs
from llm360_trainer.prepare.runner import InProcess
from llm360_trainer.prepare.tokenize import train_tokenizer
from llm360_trainer.train.plan import StagePlan

SIZES = ("training.sequenceLength=16", "model.vocabSize=500", "training.batchSize=3", "parallelism.microBatch=1")
Plan = Callable[..., tuple[StagePlan, ...]]


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe `small`, and preparation in this process."""
    texts = list(python_docs())
    sources = {"docs": lambda: texts[:3], "code": lambda: texts[3:12]}
    monkeypatch.setitem(RECIPES, "small", Recipe(sources, RECIPES["python-stdlib"].weights, frozenset({"code"})))
    here = partial(prepare_recipe, session=lambda: contextlib.nullcontext(InProcess()))
    monkeypatch.setattr(module, "prepare_recipe", here)


@pytest.fixture
def plan(small_recipe: None, make_run: Any) -> Plan:
    """Plans the stages given as YAML over the small recipe."""

    def run(stages: str, *overrides: str) -> tuple[StagePlan, ...]:
        spec: ResolvedRun = make_run(*SIZES, "data.recipe=small", "data.chunks=2", *overrides, f"data.stages={stages}")
        return plan_stages(spec, StorageOptions(), lambda _: None, before_preparing=lambda: None)

    return run


def test_stages_have_mix_fim_batch_and_steps_of_their_own(plan: Plan) -> None:
    one, two, three = plan(
        "[{name: one, mix: {docs: 1}}, {name: two, optimizerState: reset, batchSize: 2, fim: {rate: 1, spmRate: 0.5}},"
        " {name: three, mix: {code: 3, docs: 1}, steps: 7}]",
        "training.schedule.warmupSteps=1",
    )
    assert [source.name for source in one.manifest.sources] == ["docs"]
    assert (one.manifest.has_loss_mask, two.manifest.has_loss_mask) == (False, True)
    assert [source["fim"] for source in two.manifest.recipe["sources"] if "fim" in source] == [
        {"rate": 1.0, "spm_rate": 0.5}
    ]
    assert [source.weight for source in three.manifest.sources] == [1.0, 3.0]
    assert (two.first_step, two.first_tokens) == (one.last_step, one.num_steps * 3 * 16)
    assert (three.first_step, three.num_steps) == (two.last_step, 7)
    assert three.first_tokens == two.first_tokens + two.num_steps * 2 * 16
    assert [stage.moments_from for stage in (one, two, three)] == [0, two.first_step, two.first_step]
    assert one.tokenizer == two.tokenizer == three.tokenizer, "one tokenizer for all, with the sentinels from the start"


def test_every_stage_holds_the_same_documents_out_beside_its_rows(plan: Plan) -> None:
    one, two = plan("[{name: one}, {name: two, mix: {docs: 1}}]", "data.heldOut={share: 0.4}", "training.seed=2")
    rules = [stage.manifest.recipe["held_out"] for stage in (one, two)]
    assert rules == [{"share": "2/5", "seed": 2}] * 2
    copies = [list(read_held_out(open_storage(stage.data_uri), stage.manifest)) for stage in (one, two)]
    assert {source for source, _ in copies[0]} == {"docs", "code"}
    assert copies[1] == [(source, text) for source, text in copies[0] if source == "docs"]
    (other,) = plan("[{name: three}]", "data.heldOut={share: 0.4, seed: 3}", "training.seed=2")
    assert other.manifest.recipe["held_out"] == {"share": "2/5", "seed": 3}


def test_what_cannot_be_is_refused_before_the_first_stage_is_prepared(plan: Plan, store: Path) -> None:
    with pytest.raises(InputError, match=r"the mix names the source 'coda' \(did you mean 'code'"):
        plan("[{name: one}, {name: two, mix: {coda: 1}}]")
    with pytest.raises(InputError, match="there is no data recipe 'smal'"):
        plan("[{name: one}, {name: two, recipe: smal}]")
    with pytest.raises(InputError, match=r"spec\.model\.vocabSize: a vocabulary of 260 is too small; .* need 261"):
        plan("[{name: one}, {name: two, fim: {rate: 1, spmRate: 0.5}}]", "model.vocabSize=260")
    assert not store.exists()


def test_data_of_another_row_length_is_refused_before_the_first_stage_is_prepared(
    plan: Plan, tmp_path: Path, store: Path
) -> None:
    session = partial(contextlib.nullcontext, InProcess())
    other = open_storage(str(tmp_path / "other"))
    prepare_recipe(RecipeSettings("small", 8, 500, 2, 3, 0), other, session=session)
    with pytest.raises(InputError) as caught:
        plan(f"[{{name: one}}, {{name: two, uri: '{other.uri}'}}]")
    assert caught.value.reason == "RowLengthDiffers"
    assert "spec.training.sequenceLength is 16, but the data of stage 'two' has rows of 9" in caught.value.message
    assert not store.exists()


def test_fim_after_data_whose_tokenizer_has_no_sentinels_is_refused(plan: Plan, tmp_path: Path, store: Path) -> None:
    plain = open_storage(str(tmp_path / "plain"))
    prepare_recipe(
        RecipeSettings("small", 16, 500, 2, 3, 0), plain, session=partial(contextlib.nullcontext, InProcess())
    )
    with pytest.raises(InputError) as caught:
        plan(f"[{{name: one, uri: '{plain.uri}'}}, {{name: two}}, {{name: three, fim: {{rate: 1, spmRate: 0.5}}}}]")
    assert caught.value.reason == "SentinelsMissing"
    assert caught.value.message.startswith("spec.data.stages[2].fim: fill-in-the-middle (fim) needs sentinel tokens")
    assert not store.exists()


def grown(tokenizer: bytes, *tokens: str) -> bytes:
    larger = Tokenizer.from_str(tokenizer.decode())
    larger.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return bytes(larger.to_str().encode())


def test_a_later_tokenizer_may_know_more_tokens_but_none_under_another_id(make_run: Any) -> None:
    """As CrystalCoder's stages: LLaMA's 32,000 tokens, then the same and 22 more; the model has all rows throughout."""
    run = make_run("data.stages=[{name: one}, {name: two}]")

    def of(data: bytes | None) -> StageTokenizer:
        return StageTokenizer(sha256_digest(data) if data else "", data)

    plain = train_tokenizer([str(number) for number in range(2000)], 300)
    check_tokenizers(run, [of(plain), of(grown(plain, "<|more|>"))])
    with pytest.raises(InputError) as caught:
        check_tokenizers(run, [of(grown(plain, "<|more|>")), of(grown(plain, "<|else|>"))])
    assert caught.value.reason == "TokenizerDiffers"
    assert "'<|more|>' has id 300 there and none here" in caught.value.message
    with pytest.raises(InputError, match=r"no tokenizer\.json lies beside the data"):
        check_tokenizers(run, [of(plain), of(None)])


def test_another_tokenizer_of_a_later_stage_is_refused_before_the_first_is_prepared(
    plan: Plan, tmp_path: Path, store: Path
) -> None:
    session = partial(contextlib.nullcontext, InProcess())
    other = open_storage(str(tmp_path / "other"))
    prepare_recipe(RecipeSettings("small", 16, 400, 2, 3, 0), other, session=session)
    with pytest.raises(InputError, match=r"spec\.data\.stages\[1\]: the data of stage 'two' was made with a") as caught:
        plan(f"[{{name: one}}, {{name: two, uri: '{other.uri}'}}]")
    assert caught.value.reason == "TokenizerDiffers"
    assert not store.exists()


def test_a_recipe_after_data_without_a_tokenizer_is_refused(plan: Plan, tmp_path: Path, store: Path) -> None:
    bare = open_storage(str(tmp_path / "bare"))
    manifest = prepare_recipe(
        RecipeSettings("small", 16, 500, 2, 3, 0), bare, session=partial(contextlib.nullcontext, InProcess())
    )
    unknown = manifest.tokenizer.model_copy(update={"digest": "", "key": None})
    bare.put(MANIFEST_KEY, manifest.model_copy(update={"tokenizer": unknown}).to_bytes())
    with pytest.raises(InputError, match="they cannot be compared, since no"):
        plan(f"[{{name: one, uri: '{bare.uri}'}}, {{name: two}}]")
    assert not store.exists()


def test_a_recipe_takes_the_tokenizer_that_is_named(plan: Plan, tmp_path: Path) -> None:
    given = train_tokenizer([str(number) for number in range(2000)], 300)
    (tmp_path / "tokenizer.json").write_bytes(grown(given, "</s>", "<|stop|>"))
    uri = (tmp_path / "tokenizer.json").as_uri()
    (stage,) = plan("[{name: one}]", f"tokenizer.uri={uri}", "tokenizer.eosId=301")
    assert stage.manifest.tokenizer.digest == sha256_digest((tmp_path / "tokenizer.json").read_bytes())
    assert stage.manifest.tokenizer.eos_id == 301, "<|stop|>, since the specification says so"
    assert stage.tokenizer == (tmp_path / "tokenizer.json").read_bytes()


@pytest.mark.parametrize(
    ("overrides", "reason", "sentence"),
    [
        (["tokenizer.uri=file:///nowhere/tokenizer.json"], "TokenizerMissing", "spec.tokenizer.uri: there is no"),
        (["tokenizer.digest=sha256:" + "0" * 64], "TokenizerDiffers", "the one that the recipe 'small' trains is"),
        (["tokenizer.eosId=499", "model.vocabSize=400"], "InvalidSpec", "499 is no id"),
        (["tokenizer.uri=GIVEN", "model.vocabSize=290"], "TokenizerTooLarge", "has 300 ids; raise vocabSize"),
        (["tokenizer.uri=GIVEN", "tokenizer.eosId=450"], "InvalidInput", "450 is no id of the tokenizer"),
        (["tokenizer.uri=NONE"], "InvalidInput", "not a `tokenizer.json`"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused_before_anything_is_prepared(
    plan: Plan, tmp_path: Path, store: Path, overrides: list[str], reason: str, sentence: str
) -> None:
    (tmp_path / "GIVEN").write_bytes(train_tokenizer([str(number) for number in range(2000)], 300))
    (tmp_path / "NONE").write_text("hello")
    named = [
        override.replace("uri=GIVEN", f"uri={tmp_path}/GIVEN").replace("uri=NONE", f"uri={tmp_path}/NONE")
        for override in overrides
    ]
    with pytest.raises(InputError) as caught:
        plan("[{name: one}]", *named)
    assert (caught.value.reason, sentence in caught.value.message) == (reason, True), caught.value.message
    assert not store.exists()
