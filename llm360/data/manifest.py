"""The manifest of a prepared data set: its rows, sources, chunks, shards and tokenizer.

A data set exists once its `manifest.json` does; the file is written last, as canonical JSON, and the sha256 of
its stored bytes is the name under which the ledger binds the data.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llm360.canonical import DIGEST_PATTERN, canonical_json, sha256_digest
from llm360.errors import InputError, ObjectNotFoundError
from llm360.storage import Storage

MANIFEST_KEY = "manifest.json"
TOKENIZER_KEY = "tokenizer.json"
FORMAT = "llm360-data/1"

# Largest id that each dtype of the column `ids` holds.
MAX_ID = {"uint16": 2**16 - 1, "uint32": 2**32 - 1}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Model):
    """One Parquet file: consecutive rows of a chunk, in training order."""

    key: str = Field(min_length=1, description="Where the file lies, relative to the manifest's folder.")
    rows: int = Field(ge=1, description="Rows in the file.")
    bytes: int = Field(ge=1, description="Size of the file in bytes.")
    sha256: str = Field(pattern=DIGEST_PATTERN, description="`sha256:` and the hex digest of the file's bytes.")


class Chunk(_Model):
    """A part of the data after which a checkpoint may be taken; its shards follow one another."""

    rows: int = Field(ge=1, description="Rows of all the chunk's shards.")
    shards: tuple[Shard, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _rows_are_those_of_the_shards(self) -> Self:
        total = sum(shard.rows for shard in self.shards)
        if total != self.rows:
            raise ValueError(f"a chunk says {self.rows} rows, its shards hold {total}")
        return self


class Source(_Model):
    """Where text came from. A row's `source` is an index into the manifest's tuple of these."""

    name: str = Field(min_length=1)
    weight: float | None = Field(default=None, gt=0, description="Relative share of rows that was asked for, if any.")
    documents: int = Field(ge=0, description="Documents read from this source.")
    tokens: int = Field(ge=0, description="Ids that its documents gave, each document's EOS among them.")
    rows: int = Field(ge=0, description="Rows of this source in the data set.")
    dropped_tokens: int = Field(ge=0, description="Ids in no row: the tail that fills no row, and rows not taken.")
    duplicates: int | None = Field(
        default=None,
        ge=0,
        description="Documents whose text an earlier one of the source has; unset where not counted.",
    )
    personal: dict[str, int] | None = Field(
        default=None,
        description="How often patterns of personal data (`email`, `phone`, `ip_address`, `credit_card`) were found.",
    )


class TokenizerInfo(_Model):
    """The tokenizer that gave the ids."""

    key: str | None = Field(default=None, description=f"`{TOKENIZER_KEY}` where a copy lies beside the manifest.")
    digest: str = Field(
        pattern=rf"{DIGEST_PATTERN}|^$",
        description="sha256 of the tokenizer file's bytes; empty for imported ids whose tokenizer was not given.",
    )
    vocab_size: int = Field(ge=1, description="Ids are below this number.")
    eos_id: int | None = Field(default=None, ge=0, description="The id that ends a document.")


class HeldOutFile(_Model):
    """One Parquet file of documents that are in no row."""

    key: str = Field(min_length=1, description="Where the file lies, relative to the manifest's folder.")
    documents: int = Field(ge=1, description="Documents in the file.")
    bytes: int = Field(ge=1, description="Size of the file in bytes.")
    sha256: str = Field(pattern=DIGEST_PATTERN, description="`sha256:` and the hex digest of the file's bytes.")


class DataManifest(_Model):
    """Everything that a reader of the rows needs to know, and the digests that bind their bytes."""

    format: Literal["llm360-data/1"] = "llm360-data/1"
    row_tokens: int = Field(ge=2, description="Ids in each row.")
    labels: Literal["next_token", "inside"] = Field(
        description="`next_token`: N+1 ids give N predictions of N inputs. `inside`: N ids give N-1 predictions (K2)."
    )
    dtype: Literal["uint16", "uint32"] = Field(description="Little-endian integer type of the column `ids`.")
    has_loss_mask: bool = Field(description="Whether rows carry a mask of their labels; without it all count.")
    sources: tuple[Source, ...] = Field(min_length=1)
    chunks: tuple[Chunk, ...] = Field(min_length=1)
    tokenizer: TokenizerInfo
    shuffle: str = Field(
        description="How rows were ordered: `global`, `none`, `deal`, `chunk`, or `input` for imported rows."
    )
    seed: int | None = Field(default=None, ge=0, description="Seed of the order, where one was used.")
    unigram_entropy: float = Field(ge=0, description="Entropy in nats of the distribution of all rows' label ids.")
    duplicates: int | None = Field(
        default=None,
        ge=0,
        description="Documents whose text an earlier one of any source has; unset where not counted.",
    )
    held_out: tuple[HeldOutFile, ...] | None = Field(
        default=None,
        exclude_if=lambda value: value is None,  # data without it has the bytes that it had before there was a choice
        description="Copy of the documents that are held out of all rows; unset where none are, or no copy was made.",
    )
    recipe: dict[str, Any] = Field(description="How the data was made: arguments and digests of the inputs.")

    @model_validator(mode="after")
    def _counts_add_up(self) -> Self:
        in_sources = sum(source.rows for source in self.sources)
        if in_sources != self.rows:
            raise ValueError(f"the chunks hold {self.rows} rows, the sources gave {in_sources}")
        if self.tokenizer.vocab_size - 1 > MAX_ID[self.dtype]:
            raise ValueError(f"{self.dtype} cannot hold the ids of {self.tokenizer.vocab_size} tokens")
        return self

    @property
    def predictions(self) -> int:
        """Labels in each row; `tokens` counts these everywhere."""
        return self.row_tokens - 1

    @property
    def sequence_length(self) -> int:
        """N of the training: the row's inputs (`next_token`) or all its ids (`inside`)."""
        return self.row_tokens - 1 if self.labels == "next_token" else self.row_tokens

    @property
    def rows(self) -> int:
        """Rows of all chunks."""
        return sum(chunk.rows for chunk in self.chunks)

    @property
    def chunk_rows(self) -> tuple[int, ...]:
        """Rows of each chunk, in training order."""
        return tuple(chunk.rows for chunk in self.chunks)

    def to_bytes(self) -> bytes:
        """The canonical JSON that is stored as `manifest.json`."""
        return canonical_json(self.model_dump(mode="json"))


def parse_manifest(data: bytes, where: str = MANIFEST_KEY) -> DataManifest:
    """Read a manifest from its stored bytes.

    Raises:
        InputError: the bytes are no manifest of this format; each problem is named (reason DataInvalid).
    """
    try:
        return DataManifest.model_validate_json(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'manifest'}: {item['msg']}" for item in error.errors()[:8]
        )
        raise InputError(
            f"{where} is not a data manifest of format {FORMAT}: {problems}; prepare the data again",
            reason="DataInvalid",
        ) from error


def load_manifest(storage: Storage) -> tuple[DataManifest, str]:
    """The manifest in a data folder and the digest of its stored bytes.

    Args:
        storage: Rooted at the folder that holds `manifest.json`.

    Raises:
        InputError: there is no manifest (reason DataMissing), or it cannot be read (reason DataInvalid).
    """
    try:
        data = storage.get(MANIFEST_KEY)
    except ObjectNotFoundError as error:
        raise InputError(
            f"there is no prepared data at {storage.uri}: it holds no {MANIFEST_KEY};"
            " give another place, or prepare the data with `llm360 data prepare`",
            reason="DataMissing",
        ) from error
    return parse_manifest(data, f"{storage.uri}/{MANIFEST_KEY}"), sha256_digest(data)
