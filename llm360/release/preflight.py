"""What can be known of a run before it is given a single worker: its store, its data, its tokenizer."""

from __future__ import annotations

from llm360.data.fit import check_data, given_tokenizer, read_tokenizer
from llm360.data.manifest import load_manifest
from llm360.errors import InputError
from llm360.release.create import check_config
from llm360.release.layout import PROBE_KEY
from llm360.release.ledger import Ledger
from llm360.release.weights import check_weights
from llm360.spec import ResolvedRun, ResolvedStage
from llm360.storage import StorageOptions, open_storage, probe_conditional_create


def preflight(run: ResolvedRun) -> tuple[str, ...]:
    """Check everything that needs no worker. Nothing is left behind, and it may be done again at any time.

    1. The store takes a write, and refuses a second one under the same key.
    2. What is there already is this run's release.
    3. Each stage's data is there and fits, or a recipe can prepare it.
    4. The tokenizer beside the data is the one that made it; that which data is to be made with is there.
    5. Weights that the run begins with are there and of its architecture.

    Returns:
        Names of the stages whose data is missing and will be prepared by their recipe.

    Raises:
        InputError: one of these does not hold; the reason says which.
        StorageError: the store gives no usable answer.
    """
    section = run.spec.storage
    # Someone waits for the answer; the pod is started again where the store was only slow.
    options = StorageOptions(section.endpoint, section.region, section.path_style, read_timeout=20.0, max_attempts=3)
    storage = open_storage(run.store, options)
    probe_conditional_create(storage, PROBE_KEY)
    ledger = Ledger(storage)
    if ledger.head() is not None:
        check_config(ledger, run.identity())
    else:
        check_weights(run, options)
    missing = tuple(stage.name for stage in run.stages if not _has_data(run, stage, options))
    if missing:
        given_tokenizer(run, options)
    return missing


def _has_data(run: ResolvedRun, stage: ResolvedStage, options: StorageOptions) -> bool:
    """Whether a stage's data is there; where it is, it fits."""
    storage = open_storage(stage.uri, options)
    try:
        manifest, _ = load_manifest(storage)
    except InputError as error:
        if error.reason == "DataMissing" and stage.recipe is not None:
            return False
        raise
    check_data(run, stage, manifest)
    read_tokenizer(storage, manifest)
    return True
