"""The model card of an exported checkpoint: `README.md` of a Hugging Face folder.

All that it says is in the ledger or in what the ledger names; what is not known there is left out.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llm360.canonical import DIGEST_PATTERN
from llm360.data.manifest import DataManifest
from llm360.errors import LLM360Error
from llm360.release.checkpoint import CheckpointManifest
from llm360.release.create import load_config
from llm360.release.entries import Stage
from llm360.release.history import CheckpointEntry, History
from llm360.release.weights import load_weights_manifest
from llm360.release.words import stated_words
from llm360.report.facts import checkpoint_label, name_of, read_stage_data, totals
from llm360.report.hub import hub_name, license_fields
from llm360.report.markdown import code, fenced, line, paragraphs, table
from llm360.report.scores import score_curves
from llm360.report.training import first_weights, learning_rate_text, setting_rows, sizes_text
from llm360.spec import documents
from llm360.spec.release import Release
from llm360.storage import Storage, open_storage
from llm360.storage.open import without_credentials

CARD_NAME = "README.md"
"""Where the Hub looks for a card."""

RELEASE = "RELEASE"
"""Stands for the address of a release in a folder: that of the exporter's machine is nobody else's."""


@dataclass(frozen=True)
class ExportedModel:
    """What is known of the folder alone.

    Attributes:
        architecture: The class of transformers that computes it.
        has_own_code: Whether that class is no part of transformers and comes from the Hub.
        weights: Their dtype, and how they came by it where it is not the checkpoint's.
        has_tokenizer: Whether one lies beside them.
    """

    architecture: str
    has_own_code: bool
    weights: str
    has_tokenizer: bool


@dataclass(frozen=True)
class _Subject:
    """What the card is of."""

    storage: Storage
    history: History
    checkpoint: CheckpointEntry
    manifest: CheckpointManifest
    model: ExportedModel
    identity: Mapping[str, Any]
    words: Release
    base: str | None

    @property
    def stages(self) -> list[Stage]:
        """Those that the checkpoint has seen."""
        return [stage for stage in self.history.stages if stage.step < self.checkpoint.step]

    @property
    def address(self) -> str:
        """Of the release."""
        uri = without_credentials(self.storage.uri)
        return RELEASE if uri.startswith("file://") else uri


def model_card(
    storage: Storage,
    history: History,
    checkpoint: CheckpointEntry,
    manifest: CheckpointManifest,
    model: ExportedModel,
) -> str:
    """The card of a checkpoint in Markdown, with the Hub's fields in YAML before it.

    Args:
        storage: The release.
        history: What its ledger says.
        checkpoint: The one that was exported.
        manifest: The checkpoint's.
        model: What it became.

    Raises:
        ObjectNotFoundError, IntegrityError: the release's configuration is missing or changed.
    """
    identity = load_config(storage, history.config_digest)
    words, base = stated_words(history), _base_model(storage, identity)
    subject = _Subject(storage, history, checkpoint, manifest, model, identity, words, base)
    sections = (_head, _loading, _training, _data, _scores, _origin)
    body = "\n\n".join(part for section in sections for part in section(subject) if part)
    return f"---\n{documents.dump(_fields(subject))}---\n\n{body}\n"


def _fields(subject: _Subject) -> dict[str, Any]:
    """The fields that the Hub reads."""
    base = {} if subject.base is None else {"base_model": subject.base}
    fixed = {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["llm360"]}
    return license_fields(subject.words.license) | fixed | base


def _head(subject: _Subject) -> Iterator[str]:
    words, body = subject.words, subject.checkpoint.body
    yield f"# {line(name_of(without_credentials(subject.storage.uri)))}, {line(checkpoint_label(body))}"
    if words.description and words.description.strip():
        yield paragraphs(words.description)
    steps, tokens = totals(subject.history, subject.identity)
    rows = [
        ("Authors", line(", ".join(words.authors))),
        ("Licence", line(words.license or "")),
        ("Step", _of_total(body.step, steps)),
        ("Tokens seen", _of_total(body.tokens, tokens)),
        ("Parameters", f"{sum(math.prod(tensor.shape) for tensor in subject.manifest.model):,}"),
        ("Architecture", code(subject.model.architecture)),
        ("Sizes", sizes_text(subject.identity)),
        ("Weights", subject.model.weights),
        ("Began with", _beginning(subject)),
    ]
    yield _pairs(rows)


def _loading(subject: _Subject) -> Iterator[str]:
    model = subject.model
    own_code = ", trust_remote_code=True" if model.has_own_code else ""
    classes = ["AutoModelForCausalLM", *["AutoTokenizer"] * model.has_tokenizer]
    lines = [
        f"from transformers import {', '.join(classes)}",
        "",
        'name = "."  # this folder, or its name on the Hub',
        f'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto"{own_code})',
    ]
    if model.has_tokenizer:
        lines.append("tokenizer = AutoTokenizer.from_pretrained(name)")
    yield "## Load it"
    yield fenced("python", lines)


def _training(subject: _Subject) -> Iterator[str]:
    stages, settings = subject.stages, _pairs(setting_rows(subject.identity))
    if stages or settings:
        yield "## Training"
        yield settings
    if stages:
        head = ("Stage", "Steps", "Batch, sequences", "Tokens a step", "Learning rate")
        yield table(head, [_stage_cells(subject, stage) for stage in stages], numbers=(1, 2, 3))


def _stage_cells(subject: _Subject, stage: Stage) -> tuple[str, ...]:
    steps = min(subject.checkpoint.step, stage.last_step) - stage.step
    return (
        line(stage.name),
        _of_total(steps, stage.num_steps),
        f"{stage.batch_rows:,}",
        f"{stage.batch_rows * stage.predictions:,}",
        learning_rate_text(subject.identity, stage.stage),
    )


def _data(subject: _Subject) -> Iterator[str]:
    read = [(stage, read_stage_data(subject.storage, stage)) for stage in subject.stages]
    if not read:
        return
    yield "## Data"
    yield table(("Stage", "Place", "Manifest", "Tokenizer"), [_data_cells(stage, data) for stage, data in read])
    sources = [row for stage, data in read if isinstance(data, DataManifest) for row in _source_rows(stage, data)]
    if sources:
        yield "The rows of each stage, of which a checkpoint has seen those of its steps, and documents read for them."
        head = ("Stage", "Source", "Documents", "Rows", "Tokens in rows", "Share", "Digest of its files")
        yield table(head, sources, numbers=(2, 3, 4, 5))


def _data_cells(stage: Stage, data: DataManifest | str) -> tuple[str, ...]:
    place = "" if stage.data.startswith("file://") else line(without_credentials(stage.data))
    tokenizer = data.tokenizer.digest if isinstance(data, DataManifest) else ""
    return line(stage.name), place, code(stage.digests.manifest), code(tokenizer) if tokenizer else ""


def _source_rows(stage: Stage, data: DataManifest) -> Iterator[tuple[str, ...]]:
    digests, rows = _source_digests(data), sum(source.rows for source in data.sources)
    for source in data.sources:
        digest = digests.get(source.name, "")
        yield (
            line(stage.name),
            line(source.name),
            f"{source.documents:,}",
            f"{source.rows:,}",
            f"{source.rows * data.predictions:,}",
            f"{source.rows / rows:.1%}" if rows else "",
            digest and code(digest),
        )


def _source_digests(data: DataManifest) -> dict[str, str]:
    """Digests of the files that each source was read from, where the recipe says them."""
    said = data.recipe.get("sources")
    if len(data.sources) == 1 and not said:
        said = [data.recipe | {"name": data.sources[0].name}]  # imported: one digest for all files
    found = [one for one in said if isinstance(one, dict)] if isinstance(said, list) else []
    digests = {str(one.get("name")): str(one.get("digest")) for one in found}
    return {name: digest for name, digest in digests.items() if re.fullmatch(DIGEST_PATTERN, digest)}


def _scores(subject: _Subject) -> Iterator[str]:
    rows = [
        (
            line(curve.task),
            line(curve.metric),
            "" if curve.shots is None else str(curve.shots),
            f"{point.value:.4f}" + ("" if point.stderr is None else f" ± {point.stderr:.4f}"),
            line(", ".join(_evaluated(curve.harness, curve.limit, curve.seed))),
        )
        for curve in score_curves(subject.history)
        for point in curve.points
        if point.tokens == subject.checkpoint.body.tokens
    ]
    if rows:
        yield "## Evaluation"
        yield table(("Task", "Metric", "Shots", "Value", "By"), rows, numbers=(2, 3))


def _evaluated(harness: str | None, limit: int | None, seed: int | None) -> Iterator[str]:
    if harness is not None:
        yield harness
    if limit is not None:
        yield f"{limit:,} samples"
    if seed is not None:
        yield f"seed {seed}"


def _origin(subject: _Subject) -> Iterator[str]:
    history, checkpoint, address = subject.history, subject.checkpoint, subject.address
    head = history.head
    assert head is not None
    yield "## Where it comes from, and how to check it"
    yield (
        "The weights are of a checkpoint whose release records how it was made: every entry of its ledger holds the"
        " digest of the one before, and together they bind the configuration, the data and its order, every step's"
        " record and every tensor."
    )
    yield _pairs(
        [
            ("Release", "" if address == RELEASE else line(address)),
            ("Checkpoint's ledger entry", f"{checkpoint.seq}, {code(checkpoint.name)}"),
            ("Ledger's head at the export", f"{head.seq}, {code(head.name)}"),
            ("Checkpoint's model digest", code(subject.manifest.model_digest)),
            ("Configuration's digest", code(history.config_digest)),
        ]
    )
    stands = f"; `{RELEASE}` stands for its address" if address == RELEASE else ""
    yield f"Who can read the release can check it with `llm360`{stands}:"
    place, label = shlex.quote(address), next(iter(checkpoint.body.labels), str(checkpoint.step))
    yield fenced(
        "sh",
        [
            "# this very history, and every byte of every checkpoint",
            f"llm360 verify {place} --head {head.name}",
            f"# the checkpoint's last steps, trained anew: {_promise(subject)}",
            f"llm360 replay {place} --checkpoint {label}",
        ],
    )


def _promise(subject: _Subject) -> str:
    """What a replay is to find."""
    is_deterministic = subject.identity.get("training", {}).get("deterministic") is True
    return "the same bits" if is_deterministic else "losses that agree closely, for the run promises no equal bits"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and values; those that are not known are left out."""
    known = [row for row in rows if row[1]]
    return table(("", ""), known) if known else ""


def _of_total(value: int, total: int | None) -> str:
    return f"{value:,}" if total is None else f"{value:,} of {total:,}"


def _beginning(subject: _Subject) -> str:
    """The weights that the run began with, if they were imported."""
    weights = first_weights(subject.identity)
    if weights is None:
        return ""
    base = f"{line(subject.base)}, " if subject.base else ""
    return f"{base}imported weights with the manifest {code(weights.digest)}"


def _base_model(storage: Storage, identity: Mapping[str, Any]) -> str | None:
    """The Hub's name of the model that the run began with; None where it was none, or nobody can tell."""
    weights = first_weights(identity)
    if weights is None:
        return None
    try:
        manifest = load_weights_manifest(open_storage(weights.uri, storage.options), weights.digest)
    except LLM360Error:
        return None  # perhaps in a store that this reader cannot reach
    return hub_name(manifest.source)
