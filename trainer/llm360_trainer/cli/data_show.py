"""From an address and a step to the data and the order that hold it: a release's ledger, or a folder and a batch."""

from __future__ import annotations

from typing import NamedTuple

from llm360.data.manifest import MANIFEST_KEY, DataManifest, load_manifest
from llm360.data.order import StageOrder
from llm360.errors import InputError, IntegrityError
from llm360.release.entries import Stage
from llm360.release.layout import ledger_key
from llm360.release.ledger import Ledger
from llm360.storage import Storage, normalize_uri, open_storage


class StepPlace(NamedTuple):
    """Where a step's rows are."""

    storage: Storage
    manifest: DataManifest
    order: StageOrder
    step: int  # counted from the stage's first


def find_step(uri: str, step: int, batch_size: int | None, remainder: str | None) -> StepPlace:
    """The data of a step.

    Args:
        uri: A release, a stage's data inside one, or any folder of prepared data.
        step: Counted from the run's first step in a release, else from the data's first.
        batch_size: Rows of a step; must be given where no ledger tells it.
        remainder: `drop` or `carry`; None takes the ledger's, else `drop`.

    Raises:
        InputError: there is neither a release nor data, no such step, or no batch size.
        IntegrityError: a stage's manifest is not the one that its ledger names.
    """
    storage = open_storage(uri)
    if not storage.exists(MANIFEST_KEY):
        return _in_release(storage, step)
    manifest, digest = load_manifest(storage)
    stage = None if batch_size else _stage_above(uri, digest)
    if stage is not None:
        order = stage.order
    elif batch_size is not None:
        order = StageOrder(manifest.chunk_rows, batch_size, "carry" if remainder == "carry" else "drop")
    else:
        raise InputError(
            f"{storage.uri} is prepared data that no release around it tells the batch of; give --batch-size"
        )
    return StepPlace(storage, manifest, order, step)


def _in_release(storage: Storage, step: int) -> StepPlace:
    if not storage.exists(ledger_key(0)):
        raise InputError(
            f"{storage.uri} holds neither a release nor prepared data (no {ledger_key(0)}, no {MANIFEST_KEY});"
            " give a run's folder or URI, or that of prepared data",
            reason="DataMissing",
        )
    stages = Ledger(storage).history().stages
    for stage in stages:
        if stage.step <= step < stage.last_step:
            place = open_storage(stage.data, storage.options) if "://" in stage.data else storage.at(stage.data)
            manifest, digest = load_manifest(place)
            if digest != stage.digests.manifest:
                raise IntegrityError(
                    f"{place.uri}/{MANIFEST_KEY} has {digest}, but the ledger names {stage.digests.manifest}"
                )
            return StepPlace(place, manifest, stage.order, step - stage.step)
    there = f"its stages so far have steps 0 to {stages[-1].last_step - 1}" if stages else "its training has not begun"
    raise InputError(f"there is no step {step} in {storage.uri}; {there}")


def _stage_above(uri: str, digest: str) -> Stage | None:
    """The stage of the release in which the data lies (as data/<stage>), if it does."""
    folder = normalize_uri(uri).rsplit("/", 2)[0]
    if not folder.partition("://")[2].strip("/"):
        return None
    above = open_storage(folder)
    if not above.exists(ledger_key(0)):
        return None
    stages = Ledger(above).history().stages
    return next((stage for stage in stages if stage.digests.manifest == digest), None)
