"""`spec.tokenizer`: which tokenizer the data was, or will be, made with."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

from llm360.canonical import DIGEST_PATTERN
from llm360.spec.base import Section, Uri, optional


class Tokenizer(Section):
    """A Hugging Face tokenizers file; without uri the one that lies beside the data's manifest."""

    uri: Uri | None = optional(
        "Address of a tokenizer.json, for preparing data. Unset: the tokenizer.json beside the data's manifest, or the"
        " one that the recipe trains."
    )
    digest: Annotated[str, StringConstraints(max_length=71, pattern=DIGEST_PATTERN)] | None = optional(
        "sha256 digest that tokenizer.json must have, written sha256:<64 hex digits>. Unset: the manifest's."
    )
    eos_id: int | None = optional(
        "Id of the token that ends a document. Unset: the manifest's.", unit="token id", ge=0, lt=2**24
    )
