"""Perplexity: how well a checkpoint predicts documents, those held out from its training above all."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from llm360.canonical import digest_of, sha256_digest
from llm360.data.held_out import HeldOut, read_held_out, rule_of
from llm360.data.manifest import DataManifest
from llm360.data.show import load_tokenizer as load_stored_tokenizer
from llm360.errors import InputError
from llm360.release.analyses import Cell, Figure
from llm360.release.history import History
from llm360.storage import Storage
from llm360_trainer.analyze.analysis import Analysis, Measured, Subject, cells_by_source
from llm360_trainer.analyze.losses import sequence_losses, windows
from llm360_trainer.analyze.pieces import Piece, stage_data
from llm360_trainer.prepare.conversations import text_of
from llm360_trainer.prepare.documents import read_piece
from llm360_trainer.prepare.inputs import parse_source, plan_splits

HELD_OUT, ANY = "held_out", "documents"


@dataclass(frozen=True)
class Documents(Piece):
    """Texts, with the ids that the run's tokenizer gives them.

    Attributes:
        sources: The source of each.
        ids: Of each, without the token that ends a document.
        num_bytes: Of each, in UTF-8.
        context: The token that precedes each, as in the training data.
    """

    sources: tuple[str, ...] = field(repr=False)
    ids: tuple[tuple[int, ...], ...] = field(repr=False)
    num_bytes: tuple[int, ...] = field(repr=False)
    context: int | None


class Perplexity(Analysis):
    """Checkpoints on documents."""

    name = "perplexity"
    summary = "how well each checkpoint predicts documents that were held out from its training"
    reads = "documents that the data's manifest holds out: their copy beside the data, or those of the sources given"
    writes = "per document: its source, predicted tokens, bytes of text, and the sum of the tokens' losses in nats"
    figures = (
        Figure(
            key="perplexity",
            kind="lines",
            title="Perplexity by source",
            caption="exp of the mean loss over all tokens of each source's documents.",
            value="perplexity",
            error="perplexity_stderr",
            by="source",
            log=True,
        ),
        Figure(
            key="bits-per-byte",
            kind="lines",
            title="Bits per byte by source",
            caption="The loss in bits by the bytes of the text: comparable between tokenizers.",
            value="bits_per_byte",
            by="source",
        ),
    )

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Which documents, and how many tokens they may look back."""
        add = parser.add_argument
        add(
            "--source",
            dest="sources",
            metavar="NAME=PATH",
            action="append",
            default=[],
            help="files of documents, as `llm360 data prepare` takes them; again for more (default: the copy, beside"
            " the data, of what is held out)",
        )
        add("--all-documents", action="store_true", help="also those that may have been trained on; kept apart")
        add("--documents", type=int, default=1000, metavar="N", help="at most so many of each source (default: 1000)")
        add("--seed", type=int, default=42, metavar="N", help="of the choice among them (default: 42)")
        add("--window", type=int, metavar="TOKENS", help="predictions at a time (default: as long as training's rows)")

    def settings(self, args: argparse.Namespace) -> dict[str, Any]:
        """Whether the documents are held out, and the window."""
        for name, least in (("documents", 1), ("window", 1)):
            if getattr(args, name) is not None and getattr(args, name) < least:
                raise InputError(f"--{name} is {getattr(args, name)}; it must be at least {least}")
        if args.all_documents and not args.sources:
            raise InputError("--all-documents needs a --source: beside the data lies what is held out alone")
        return {"held_out": not args.all_documents, "window": args.window}

    def pieces(self, storage: Storage, history: History, args: argparse.Namespace) -> Sequence[Piece]:
        """The documents, tokenized."""
        if not history.stages:
            raise InputError(f"{storage.uri} has no stage in its ledger yet, so it names no tokenizer; train first")
        stages = [(stage.name, *stage_data(storage, stage)) for stage in history.stages]
        rule = None if args.all_documents else _common_rule({name: manifest for name, _, manifest in stages})
        _, place, manifest = stages[-1]
        choice = {"count": args.documents, "seed": args.seed}
        if args.sources:
            texts = read_documents(args.sources, manifest, rule, **choice)
        else:
            texts = copied_documents([(place, manifest) for _, place, manifest in stages], **choice)
        return [_tokenized(ANY if rule is None else HELD_OUT, texts, place, manifest)]

    def measure(self, subject: Subject, piece: Documents, settings: Mapping[str, Any]) -> pa.Table:
        """The losses of each document."""
        length = settings["window"] or subject.decoder.config.max_position_embeddings
        if length > subject.decoder.config.max_position_embeddings:
            raise InputError(
                f"--window is {length}; the model looks at {subject.decoder.config.max_position_embeddings} at most"
            )
        cut = [windows(ids, piece.context, length) for ids in piece.ids]
        losses = iter(sequence_losses(subject.decoder, [w for found in cut for w in found], subject.batch_size))
        of_documents = [[next(losses) for _ in found] for found in cut]
        return pa.table(
            {
                "source": pa.array(piece.sources, pa.string()),
                "tokens": pa.array([sum(map(len, found)) for found in of_documents], pa.int64()),
                "bytes": pa.array(piece.num_bytes, pa.int64()),
                "nats": pa.array([float(sum(f.sum(dtype=np.float64) for f in found)) for found in of_documents]),
            }
        )

    def cells(self, measured: Measured) -> list[Cell]:
        """Loss, perplexity and bits per byte over all tokens, overall and by source."""
        return cells_by_source(measured, perplexity_of)


def perplexity_of(table: pa.Table) -> dict[str, float]:
    """Loss, perplexity and bits per byte of a table of `measure`; each token counts alike, whatever its document.

    The standard error is that of a ratio of sums over documents (Cochran, Sampling Techniques, 3rd ed., §6.4): tokens
    of one document are not independent. That of the perplexity follows by its derivative.
    """
    nats, tokens = (np.asarray(table[name].to_numpy(), np.float64) for name in ("nats", "tokens"))
    loss = float(nats.sum() / tokens.sum())
    values = {
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": float(nats.sum() / math.log(2) / table["bytes"].to_numpy().sum()),
    }
    if (count := len(nats)) > 1:
        spread = float(((nats - loss * tokens) ** 2).sum()) / (count * (count - 1))
        values["loss_stderr"] = math.sqrt(spread) / float(tokens.mean())
        values["perplexity_stderr"] = values["perplexity"] * values["loss_stderr"]
    return values


def read_documents(
    sources: Sequence[str], manifest: DataManifest, rule: HeldOut | None, *, count: int, seed: int
) -> list[tuple[str, str]]:
    """Names of sources and texts of documents, those of each source in the order of the choice.

    The choice is by the texts alone, like the rule: the `count` with the least sha256 of seed and text.

    Raises:
        InputError: a source cannot be read, or has no document that the rule holds out.
    """
    chosen: list[tuple[str, str]] = []
    for given in map(parse_source, sources):
        splits = plan_splits([given.files()], manifest.recipe.get("txt_document", "line"))
        documents = (
            text_of(document)
            for split in splits
            for piece in split.pieces
            for document in read_piece(piece, manifest.recipe.get("txt_document", "line"))
        )
        found = {text for text in documents if text and (rule is None or rule.takes(text))}
        if not found:
            which = f" that seed {rule.seed} holds out" if rule else ""
            raise InputError(f"source '{given.name}' has no document{which}; give it more text")
        chosen += [(given.name, text) for text in _choose(found, count, seed)]
    return chosen


def copied_documents(stages: Sequence[tuple[Storage, DataManifest]], *, count: int, seed: int) -> list[tuple[str, str]]:
    """Names of sources and texts of the documents whose copies lie beside the data of all stages; chosen likewise.

    Raises:
        InputError: there is none.
        IntegrityError: a copy is not what its manifest names.
    """
    found: dict[str, set[str]] = {}
    for place, manifest in stages:
        for source, text in read_held_out(place, manifest):
            if text:
                found.setdefault(source, set()).add(text)
    if not found:
        raise InputError(
            "no copy of documents that are held out lies beside the data; name their files with --source, or give a"
            " larger share (data.heldOut, or data prepare --held-out) when the next run's data is prepared"
        )
    return [(source, text) for source, texts in found.items() for text in _choose(texts, count, seed)]


def _choose(texts: Iterable[str], count: int, seed: int) -> list[str]:
    """The `count` texts with the least sha256 of seed and text."""
    return sorted(texts, key=lambda text: sha256_digest(f"{seed}\0{text}".encode()))[:count]


def _common_rule(manifests: Mapping[str, DataManifest]) -> HeldOut:
    """The rule that every stage's data kept: what one of them held out must not be in another."""
    rules = {name: rule_of(manifest.recipe) for name, manifest in manifests.items()}
    for name, rule in rules.items():
        if rule is None:
            raise InputError(
                f"the data of stage '{name}' was prepared without --held-out, so no document is known to be outside"
                " of it; measure any with --source and --all-documents, or hold documents out of the next run's data:"
                " data.heldOut where a recipe prepares it, `data prepare --held-out 0.001` elsewhere"
            )
    first = next(rule for rule in rules.values() if rule is not None)
    if any(rule != first for rule in rules.values()):
        told = ", ".join(f"{name}: {rule.share}, seed {rule.seed}" for name, rule in rules.items() if rule)
        raise InputError(f"the stages hold out different documents ({told}); measure with --all-documents")
    return first


def _tokenized(name: str, texts: Sequence[tuple[str, str]], place: Storage, manifest: DataManifest) -> Documents:
    tokenizer = load_stored_tokenizer(place, manifest)
    if tokenizer is None:
        raise InputError(f"the data at {place.uri} has no tokenizer beside it, so documents cannot become its ids")
    tokenizer.encode_special_tokens = True
    encoded = tokenizer.encode_batch_fast([text for _, text in texts], add_special_tokens=False)
    return Documents(
        name=name,
        digest=digest_of({"tokenizer": manifest.tokenizer.digest, "eos": manifest.tokenizer.eos_id, "texts": [*texts]}),
        sources=tuple(source for source, _ in texts),
        ids=tuple(tuple(encoding.ids) for encoding in encoded),
        num_bytes=tuple(len(text.encode()) for _, text in texts),
        context=manifest.tokenizer.eos_id,
    )
