"""Whether prepared data fits a run: its rows, its vocabulary and its tokenizer, from the manifest alone."""

from __future__ import annotations

from llm360.canonical import sha256_digest
from llm360.data.manifest import DataManifest
from llm360.errors import InputError, ObjectNotFoundError
from llm360.spec import ResolvedRun, ResolvedStage
from llm360.storage import Storage, StorageOptions, open_storage
from llm360.storage.open import normalize_uri


def check_data(run: ResolvedRun, stage: ResolvedStage, manifest: DataManifest) -> None:
    """Compare data with the specification.

    Raises:
        InputError: row length, vocabulary or tokenizer do not fit.
    """
    spec = run.spec
    if manifest.sequence_length != spec.training.sequence_length:
        raise InputError(
            f"spec.training.sequenceLength is {spec.training.sequence_length}, but the data of stage '{stage.name}' has"
            f" rows of {manifest.row_tokens} tokens, which is a sequence length of {manifest.sequence_length};"
            " set it to that, or prepare the data again",
            reason="RowLengthDiffers",
        )
    if manifest.tokenizer.vocab_size > spec.model.vocab_size:
        raise InputError(
            f"spec.model.vocabSize is {spec.model.vocab_size}, but the tokenizer of stage '{stage.name}' has"
            f" {manifest.tokenizer.vocab_size} ids; raise vocabSize to at least that, or use another tokenizer",
            reason="TokenizerTooLarge",
        )
    wanted = spec.tokenizer.digest
    if wanted is not None and manifest.tokenizer.digest != wanted:
        raise InputError(
            f"spec.tokenizer.digest is {wanted}, but the data of stage '{stage.name}' was made with the tokenizer"
            f" {manifest.tokenizer.digest}; use the data of that tokenizer, or correct the digest",
            reason="TokenizerDiffers",
        )
    end = spec.tokenizer.eos_id
    if end is not None and manifest.tokenizer.eos_id not in (None, end):
        raise InputError(
            f"spec.tokenizer.eosId is {end}, but documents in the data of stage '{stage.name}' end with"
            f" {manifest.tokenizer.eos_id}; correct eosId, or prepare the data with --eos {end}",
            reason="TokenizerDiffers",
        )


def given_tokenizer(run: ResolvedRun, options: StorageOptions) -> bytes | None:
    """The file of `spec.tokenizer.uri`, with which a recipe makes its data; None where none is named.

    Raises:
        InputError: it is missing, or not the one of `spec.tokenizer.digest`.
    """
    wanted = run.spec.tokenizer
    if wanted.uri is None:
        return None
    folder, _, key = normalize_uri(wanted.uri).rpartition("/")
    try:
        data = open_storage(folder, options).get(key)
    except ObjectNotFoundError as error:
        raise InputError(
            f"spec.tokenizer.uri: there is no {wanted.uri}; give the address of a tokenizer.json, or leave it away to"
            " have the recipe train one",
            reason="TokenizerMissing",
        ) from error
    check_tokenizer_digest(run, sha256_digest(data), wanted.uri)
    return data


def check_tokenizer_digest(run: ResolvedRun, digest: str, what: str) -> None:
    """Compare a tokenizer that data is to be made with, named `what`, with the specification's digest.

    Raises:
        InputError: reason TokenizerDiffers.
    """
    wanted = run.spec.tokenizer.digest
    if wanted not in (None, digest):
        raise InputError(
            f"spec.tokenizer.digest is {wanted}, but {what} is {digest}; name the file of that digest in"
            " spec.tokenizer.uri, or correct the digest",
            reason="TokenizerDiffers",
        )


def read_tokenizer(storage: Storage, manifest: DataManifest) -> bytes | None:
    """The tokenizer.json beside the data, for the model folder; None where the data has none.

    Raises:
        InputError: it is missing, or not the one that made the data.
    """
    if manifest.tokenizer.key is None:
        return None
    try:
        data = storage.get(manifest.tokenizer.key)
    except ObjectNotFoundError as error:
        raise InputError(
            f"the tokenizer {storage.uri}/{manifest.tokenizer.key}, which the data's manifest names, does not exist;"
            " put the one that made the data back, or prepare the data again",
            reason="TokenizerMissing",
        ) from error
    if (digest := sha256_digest(data)) != manifest.tokenizer.digest:
        raise InputError(
            f"{storage.uri}/{manifest.tokenizer.key} has digest {digest}, but the data's manifest names"
            f" {manifest.tokenizer.digest}; restore the tokenizer that made the data",
            reason="TokenizerDiffers",
        )
    return data
