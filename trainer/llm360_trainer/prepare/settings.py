"""What is prepared, and what of it is impossible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm360.data.held_out import HeldOut
from llm360.errors import InputError
from llm360_trainer.prepare import inputs
from llm360_trainer.prepare.packing import RowForm

Shuffle = Literal["global", "none", "deal", "chunk"]
Labels = Literal["next_token", "inside"]
Packing = Literal["disjoint", "overlapping"]


@dataclass(frozen=True)
class PrepareSettings:
    """What is prepared.

    Args:
        sources: Where text comes from.
        tokenizer: The contents of `tokenizer.json`.
        sequence_length: N; rows have N + 1 ids, or N where labels are inside.
        chunks: Parts of the data between checkpoints.
        seed: Of the shuffle.
        shuffle: `global` over all rows; `none`: source after source, in the order of the input; `deal`: row j of a
            source goes to chunk j mod `chunks`, in which sources follow one another (Amber); `chunk`: the same, then
            shuffled inside each chunk (K2).
        txt_document: What a document of a `.txt` file is.
        eos: Token or id that ends a document; None looks for the usual names.
        max_rows: Take at most so many rows, in the proportions of the weights; None takes all that the mix gives.
        recipe_name: Of a built-in recipe, recorded in the manifest.
        labels: As the manifest states them.
        packing: `disjoint`: rows share no id; `overlapping`: each begins with the last id of the one before
            (CrystalCoder).
        held_out: Which documents become no rows; None: all do.
    """

    sources: tuple[inputs.SourceSpec, ...]
    tokenizer: bytes
    sequence_length: int
    chunks: int
    seed: int
    shuffle: Shuffle = "global"
    txt_document: Literal["line", "file"] = "line"
    eos: str | None = None
    max_rows: int | None = None
    recipe_name: str | None = None
    labels: Labels = "next_token"
    packing: Packing = "disjoint"
    held_out: HeldOut | None = None

    @property
    def form(self) -> RowForm:
        """Length and stride of rows."""
        row_tokens = self.sequence_length + (self.labels == "next_token")
        return RowForm(row_tokens, row_tokens - (self.packing == "overlapping"))

    @property
    def is_dealt(self) -> bool:
        """Whether rows go to chunk after chunk."""
        return self.shuffle in ("deal", "chunk")

    @property
    def order_seed(self) -> int | None:
        """Seed of the order; None where it is the input's."""
        return self.seed if self.shuffle in ("global", "chunk") else None

    def check(self) -> None:
        """Refuse impossible numbers.

        Raises:
            InputError: names the setting, its value and what is allowed.
        """
        inputs.check_sources(self.sources)
        for name, least, most in (
            ("sequence_length", 1, 2**24),
            ("chunks", 1, 2**20),
            ("seed", 0, 2**53 - 1),  # what JSON holds exactly
            ("max_rows", 1, 2**53 - 1),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise InputError(f"--{name.replace('_', '-')} is {value}; it must be from {least} to {most}")
        weighted = any(source.weight is not None for source in self.sources)
        if self.is_dealt and (weighted or self.max_rows is not None):
            raise InputError(
                f"--shuffle {self.shuffle} deals all rows to the chunks and takes neither weights nor --max-rows;"
                " leave them away, or take --shuffle global"
            )
        if self.form.row_tokens < 2:
            raise InputError("--sequence-length is 1 with --labels inside; a row of one id has no prediction")
