"""Each stage's data before training begins: there, or prepared by its recipe; checked against the specification.

Everything that can be refused is refused here, before an attempt is claimed and before any GPU works.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from llm360.canonical import sha256_digest
from llm360.data.fit import check_data, check_tokenizer_digest, given_tokenizer, read_tokenizer
from llm360.data.held_out import HeldOut
from llm360.data.manifest import DataManifest, load_manifest
from llm360.data.order import StageOrder
from llm360.errors import InputError
from llm360.spec import ResolvedRun, ResolvedStage
from llm360.storage import Storage, StorageOptions, open_storage
from llm360_trainer.prepare.fim import FimRates, find_sentinels
from llm360_trainer.prepare.recipes import RecipeSettings, check_recipe, prepare_recipe, recipe_tokenizer
from llm360_trainer.prepare.tokenize import (
    END_OF_TEXT,
    describe_difference,
    end_of_document,
    load_tokenizer,
    vocabulary_size,
)
from llm360_trainer.train.plan import StagePlan


def plan_stages(
    run: ResolvedRun, options: StorageOptions, say: Callable[[str], None], *, before_preparing: Callable[[], None]
) -> tuple[StagePlan, ...]:
    """The stages of a run with their data, prepared where it is missing and a recipe is named.

    Args:
        run: The specification.
        options: How storage is reached.
        say: Takes sentences for whoever watches.
        before_preparing: Called before a recipe is run: has Ray started.

    Raises:
        InputError: data missing and no recipe, or data that does not fit the specification; names the field.
        StorageError: the data cannot be read.
    """
    found = [existing_data(run, stage, open_storage(stage.uri, options)) for stage in run.stages]
    tokenizers = stage_tokenizers(run, options, found, say)
    check_tokenizers(run, tokenizers)
    check_sentinels(run, tokenizers, found)
    check_ends(run, tokenizers, found)
    plans: list[StagePlan] = []
    for index, stage in enumerate(run.stages):
        storage = open_storage(stage.uri, options)
        previous = plans[-1] if plans else None
        data = found[index]
        if data is None:
            tokenizer = tokenizers[index].data
            assert tokenizer is not None, "a recipe has a tokenizer"
            before_preparing()
            data = prepare_data(run, stage, storage, say, tokenizer)
        manifest, digest = data
        order = StageOrder(manifest.chunk_rows, stage.batch_size, stage.remainder)
        num_steps = min(order.num_steps, stage.steps or order.num_steps)
        check_schedule(stage, num_steps)
        first_step = previous.last_step if previous else 0
        plans.append(
            StagePlan(
                index=index,
                data_uri=storage.uri,
                manifest=manifest,
                manifest_digest=digest,
                tokenizer=tokenizers[index].data,
                order=order,
                first_step=first_step,
                num_steps=num_steps,
                first_tokens=previous.tokens_after(first_step) if previous else 0,
                checkpoint_every=stage.checkpoint_every,
                moments_from=previous.moments_from if previous and stage.optimizer_state == "carry" else first_step,
            )
        )
    return tuple(plans)


def existing_data(run: ResolvedRun, stage: ResolvedStage, storage: Storage) -> tuple[DataManifest, str] | None:
    """The stage's manifest and its digest where they are there; None where a recipe will make them.

    Raises:
        InputError: the data does not fit the specification, or (reason DataMissing) there is none and no recipe.
    """
    try:
        manifest, digest = load_manifest(storage)
    except InputError as error:
        if error.reason != "DataMissing" or stage.recipe is None:
            raise
        check_recipe(stage.recipe, stage.mix)
        return None
    check_data(run, stage, manifest)
    return manifest, digest


@dataclass(frozen=True)
class StageTokenizer:
    """The tokenizer of a stage's data.

    Attributes:
        digest: sha256 of its file; empty for imported ids whose tokenizer was not given.
        data: The contents of its `tokenizer.json`; None where the data has none.
    """

    digest: str
    data: bytes | None


def stage_tokenizers(
    run: ResolvedRun,
    options: StorageOptions,
    found: Sequence[tuple[DataManifest, str] | None],
    say: Callable[[str], None],
) -> list[StageTokenizer]:
    """Each stage's tokenizer, known before any data is made: that beside its data, or else the stage's before.

    The first stage's recipe trains one, as does one after data that has none. That takes seconds, and a stage that
    cannot follow is then told of before the preparation of those before it.

    Raises:
        InputError: a tokenizer is missing or changed, or (reason TokenizerTooSmall) cannot be trained as small.
    """
    tokenizers: list[StageTokenizer] = []
    for stage, data in zip(run.stages, found, strict=True):
        if data is not None:
            manifest, _digest = data
            tokenizer = read_tokenizer(open_storage(stage.uri, options), manifest)
            tokenizers.append(StageTokenizer(manifest.tokenizer.digest, tokenizer))
        elif tokenizers and tokenizers[-1].data is not None:
            tokenizers.append(tokenizers[-1])
        else:
            tokenizer = recipe_tokenizer_of(run, stage, options, say)
            tokenizers.append(StageTokenizer(sha256_digest(tokenizer), tokenizer))
    return tokenizers


def recipe_tokenizer_of(
    run: ResolvedRun, stage: ResolvedStage, options: StorageOptions, say: Callable[[str], None]
) -> bytes:
    """The tokenizer with which a stage's recipe makes data: that of `spec.tokenizer.uri`, or one that it trains.

    Raises:
        InputError: the file cannot be used, or no tokenizer of that size can be trained; names the field.
    """
    assert stage.recipe is not None
    vocab_size = run.spec.model.vocab_size
    given = given_tokenizer(run, options)
    if given is not None:
        if (size := vocabulary_size(load_tokenizer(given))) > vocab_size:
            raise InputError(
                f"spec.model.vocabSize is {vocab_size}, but {run.spec.tokenizer.uri} has {size} ids; raise vocabSize to"
                " at least that, or use another tokenizer",
                reason="TokenizerTooLarge",
            )
        return given
    try:
        trained = recipe_tokenizer(stage.recipe, vocab_size, sentinels=needs_sentinels(run), say=say)
    except InputError as error:
        raise InputError(f"spec.model.vocabSize: {error.message}", reason="TokenizerTooSmall") from error
    check_tokenizer_digest(run, sha256_digest(trained), f"the one that the recipe '{stage.recipe}' trains")
    return trained


def end_token(run: ResolvedRun, tokenizer: bytes) -> str | None:
    """The token that ends each document that a recipe writes: that of `spec.tokenizer.eosId`, or a usual one (None).

    Raises:
        InputError: the tokenizer has no such token.
    """
    loaded, wanted = load_tokenizer(tokenizer), run.spec.tokenizer.eos_id
    if wanted is None:
        if loaded.token_to_id(END_OF_TEXT) is not None:
            return END_OF_TEXT
        end_of_document(loaded, None)
        return None
    token: str | None = loaded.id_to_token(wanted)
    if token is None:
        raise InputError(f"spec.tokenizer.eosId: {wanted} is no id of the tokenizer; correct it, or leave it away")
    return token


def needs_sentinels(run: ResolvedRun) -> bool:
    """Whether the tokenizer must know the sentinels of fill-in-the-middle."""
    return any(stage.fim is not None for stage in run.stages)


def check_sentinels(
    run: ResolvedRun, tokenizers: Sequence[StageTokenizer], found: Sequence[tuple[DataManifest, str] | None]
) -> None:
    """See that the tokenizer of the data before serves the stages whose recipes turn documents around.

    Raises:
        InputError: reason SentinelsMissing; names the stage's field.
    """
    for index, (stage, tokenizer) in enumerate(zip(run.stages, tokenizers, strict=True)):
        if found[index] is None and stage.fim is not None and tokenizer.data is not None:
            try:
                find_sentinels(load_tokenizer(tokenizer.data))
            except InputError as error:
                raise InputError(
                    f"spec.data.stages[{index}].fim: {error.message}; the tokenizer is"
                    f" {'that of the stages before' if index else run.spec.tokenizer.uri}",
                    reason=error.reason,
                ) from error


def check_ends(
    run: ResolvedRun, tokenizers: Sequence[StageTokenizer], found: Sequence[tuple[DataManifest, str] | None]
) -> None:
    """See that the tokenizers have the token that is to end the documents of data that is to be made.

    Raises:
        InputError: one has not.
    """
    for tokenizer, data in zip(tokenizers, found, strict=True):
        if data is None and tokenizer.data is not None:
            end_token(run, tokenizer.data)


def prepare_data(
    run: ResolvedRun, stage: ResolvedStage, storage: Storage, say: Callable[[str], None], tokenizer: bytes
) -> tuple[DataManifest, str]:
    """Have the stage's recipe make its data.

    Args:
        run: The specification.
        stage: One whose recipe is named.
        storage: Where its data goes.
        say: Takes sentences for whoever watches.
        tokenizer: The stage's.

    Returns:
        The manifest and its digest.
    """
    assert stage.recipe is not None
    say(f"preparing the data of stage '{stage.name}' by the recipe '{stage.recipe}'")
    prepare_recipe(
        RecipeSettings(
            name=stage.recipe,
            sequence_length=run.spec.training.sequence_length,
            vocab_size=run.spec.model.vocab_size,
            chunks=stage.chunks or 1,
            batch_size=stage.batch_size,
            seed=run.spec.training.seed,
            mix=stage.mix,
            fim=None if stage.fim is None else FimRates(stage.fim.rate, stage.fim.spm_rate),
            sentinels=needs_sentinels(run),
            tokenizer=tokenizer,
            eos=end_token(run, tokenizer),
            held_out=held_out_rule(run),
        ),
        storage,
        say=say,
    )
    manifest, digest = load_manifest(storage)
    check_data(run, stage, manifest)
    return manifest, digest


def held_out_rule(run: ResolvedRun) -> HeldOut | None:
    """Which documents the run's recipes keep out of the rows: the same ones in every stage."""
    asked = run.spec.data.held_out
    if asked is None:
        return None
    # The number as it was written: 0.02 is 1/50, not the nearest binary fraction.
    return HeldOut(Fraction(str(asked.share)), run.spec.training.seed if asked.seed is None else asked.seed)


def check_schedule(stage: ResolvedStage, num_steps: int) -> None:
    """See that the learning rate is defined over the stage's steps, whose number only the data tells.

    Raises:
        InputError: the decay would end before the warm-up.
    """
    schedule = stage.schedule
    end = schedule.decay_end(num_steps)
    if schedule.kind != "constant" and end <= schedule.warmup_steps:
        raise InputError(
            f"spec.training.schedule does not fit stage '{stage.name}', which has {num_steps} steps: the decay ends at"
            f" step {end}, before the warm-up of {schedule.warmup_steps} steps is over; lower warmupSteps, or set a"
            " later decaySteps",
            reason="ScheduleDoesNotFit",
        )


def check_tokenizers(run: ResolvedRun, tokenizers: Sequence[StageTokenizer]) -> None:
    """One model is trained on all stages: a later tokenizer may know more tokens, but none under another id.

    Raises:
        InputError: reason TokenizerDiffers; names the stages and the first token that differs.
    """
    for index, (before, after) in enumerate(pairwise(tokenizers), 1):
        if before.digest == after.digest:
            continue
        problem = "they cannot be compared, since no tokenizer.json lies beside the data"
        if before.data is not None and after.data is not None:
            problem = describe_difference(load_tokenizer(before.data), load_tokenizer(after.data))
        if problem:
            raise InputError(
                f"spec.data.stages[{index}]: the data of stage '{run.stages[index].name}' was made with a"
                f" tokenizer that does not continue that of stage '{run.stages[index - 1].name}': {problem}; prepare"
                " both with the same one, or with one that only adds tokens",
                reason="TokenizerDiffers",
            )
