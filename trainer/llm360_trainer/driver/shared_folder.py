"""A release in a folder, made by several machines: each has to see the same folder, not one on its own disk."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping
from typing import Any

import ray

from llm360.errors import InputError, StorageError
from llm360.release.layout import PROBE_KEY
from llm360.storage import Storage, open_storage

WORKS = ("CPU", "GPU")
"""What a node has at least one of, if it is given work."""
APPEAR_SECONDS = 30.0
"""How long a new file of a shared folder may take to show on other machines."""
ANSWER_SECONDS = 60.0
"""How long a machine may take to answer: a process has to start there. One that has left never does."""


def is_folder(storage: Storage) -> bool:
    """Whether a store is a folder of the machine that it is opened on."""
    return storage.uri.startswith("file://")


def check_shared_folder(storage: Storage) -> None:
    """See that every machine of the Ray cluster that this process has joined finds what is written to a folder here.

    Machines that join later cannot be looked at; one that gives no answer may have left, and is passed over.

    Args:
        storage: Rooted at the release; one that is no folder is left alone.

    Raises:
        InputError: machines do not see the folder; named.
        StorageError: it cannot be written here.
    """
    others = other_machines(ray.nodes(), ray.util.get_node_ip_address()) if is_folder(storage) else {}
    if not others:
        return
    key = f"{PROBE_KEY}-{secrets.token_hex(8)}"
    storage.put(key, b"probe")
    try:
        seen = ask(others, storage.uri, key)
    finally:
        storage.delete(key)
    if blind := [machine for machine, sees in seen.items() if not sees]:
        raise InputError(
            f"the release lies in the folder {storage.uri}, but what is written there is not seen on"
            f" {', '.join(blind)} of the Ray cluster: each machine would write to its own disk; give a folder that all"
            " of them share (NFS and the like, at the same path), or s3://bucket/prefix",
            reason="FolderNotShared",
        )


def other_machines(nodes: Iterable[Mapping[str, Any]], here: str) -> dict[str, str]:
    """The machines but this one that are given work: name and address, and the id of a node there.

    Args:
        nodes: As `ray.nodes()` lists them; there may be several of a machine.
        here: This machine's address.
    """
    return {
        f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})": node["NodeID"]
        for node in nodes
        if node["Alive"] and node["NodeManagerAddress"] != here and any(node["Resources"].get(kind) for kind in WORKS)
    }


def ask(machines: Mapping[str, str], uri: str, key: str) -> dict[str, bool]:
    """Which machines see a key of a store, of those that answer.

    Args:
        machines: The id of a node of each.
        uri: Of the store.
        key: What to look for.
    """
    look = ray.remote(sees)
    asked = {
        machine: look.options(num_cpus=0, max_retries=0, label_selector={"ray.io/node-id": node}).remote(uri, key)
        for machine, node in machines.items()
    }
    ready, late = ray.wait(list(asked.values()), num_returns=len(asked), timeout=ANSWER_SECONDS)
    for answer in late:
        ray.cancel(answer, force=True)
    answers = {machine: _answer(answer) for machine, answer in asked.items() if answer in ready}
    return {machine: answer for machine, answer in answers.items() if answer is not None}


def sees(uri: str, key: str) -> bool:
    """Whether a key of a store is there, or appears soon."""
    end = time.monotonic() + APPEAR_SECONDS
    while time.monotonic() < end:
        try:
            if open_storage(uri).exists(key):
                return True
        except StorageError:
            return False
        time.sleep(0.5)
    return False


def _answer(answer: Any) -> bool | None:
    """What a machine said; None where its process ended first."""
    try:
        return bool(ray.get(answer))
    except ray.exceptions.RayError:
        return None
