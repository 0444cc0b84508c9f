"""Starting a release, and opening one that is there."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from llm360.canonical import canonical_json, sha256_digest
from llm360.errors import InputError, IntegrityError
from llm360.release.entries import ConfigDigests, EntryDraft, Genesis
from llm360.release.history import History
from llm360.release.layout import PROBE_KEY, config_key
from llm360.release.ledger import Ledger
from llm360.spec.identity import identity_changes
from llm360.storage.base import Storage
from llm360.storage.probe import probe_conditional_create


def create_release(storage: Storage, config: Mapping[str, Any]) -> Ledger:
    """Open the release of a run, starting it where there is none. Safe to call again and by several at once.

    Args:
        storage: Rooted at the release.
        config: The run's identity, JSON values only; its canonical bytes are stored and their sha256 is the
            run's config digest.

    Raises:
        InputError: another run lives there (names the fields of its identity that differ), or the store does
            not honour conditional create.
        StorageUnavailableError: the store gave no answer; call again.
    """
    data = canonical_json(dict(config))
    digest = sha256_digest(data)
    ledger = Ledger(storage)
    if ledger.head() is None:
        # Nothing is written before the probe: a store that cannot hold a ledger is left as it was.
        probe_conditional_create(storage, PROBE_KEY)
        storage.put(config_key(digest), data)
        genesis = Genesis(digests=ConfigDigests(config=digest))
        with contextlib.suppress(_AlreadyStarted):
            ledger.append(_genesis_once(genesis))
    check_config(ledger, config)
    return ledger


def open_release(storage: Storage) -> Ledger:
    """Open a release for reading, or for entries that are not training's.

    Raises:
        InputError: there is none.
        IntegrityError: its chain is broken.
    """
    ledger = Ledger(storage)
    if ledger.head() is None:
        raise InputError(
            f"there is no release at {storage.uri}: ledger/00000000.json does not exist;"
            " give the folder or URI that a run was started with",
            reason="ReleaseMissing",
        )
    return ledger


def load_config(storage: Storage, digest: str) -> Any:
    """The run's identity, checked against the digest that the ledger names.

    Raises:
        IntegrityError: the stored bytes have another digest.
        ObjectNotFoundError: it is not there.
    """
    key = config_key(digest)
    data = storage.get(key)
    found = sha256_digest(data)
    if found != digest:
        raise IntegrityError(f"{key} has digest {found}, but the ledger names {digest}")
    return json.loads(data)


def check_config(ledger: Ledger, config: Mapping[str, Any]) -> None:
    """Check that a release is that of the run described.

    Raises:
        InputError: it is not; names the fields that differ.
    """
    digest = sha256_digest(canonical_json(dict(config)))
    stored = ledger.history().config_digest
    if stored == digest:
        return
    differences = identity_changes(load_config(ledger.storage, stored), config)
    raise InputError(
        f"{ledger.storage.uri} holds a run whose identity differs from the one given: {'; '.join(differences)}."
        " What a run is cannot change after its start: restore these fields, or start a new run in another place",
        reason="IdentityChanged",
    )


class _AlreadyStarted(Exception):  # noqa: N818  (not an error: another creator was first)
    pass


def _genesis_once(genesis: Genesis) -> Any:
    def build(history: History) -> EntryDraft:
        if history.head is not None:
            raise _AlreadyStarted
        return genesis

    return build
