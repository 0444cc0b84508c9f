"""What the API server last said of runs and their children, so that a round need not ask again.

A run is looked at by requests when it is first met, and again after a few minutes (`observe`). In between, watch
events and the answers to our own writes keep what is known up to date: of two words about an object the one with the
higher resourceVersion counts (Kubernetes promises that they can be compared, KEP-5504), so it does not matter in which
order they arrive. Where something turns out to be otherwise than it was believed, or is gone, the run is forgotten and
so looked at again.

Objects are kept as JSON without what nobody reads: an eighth of the memory, and nobody can change them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from llm360.spec.crd import RUN_LABEL
from llm360_operator.names import Key

Object = dict[str, Any]

RUN = "LLM360Run"
FRESH_SECONDS = 300.0
"""How long what is known of a run is believed without another look: the most for which a lost event can matter."""

_METADATA = (
    "name", "namespace", "uid", "generation", "creationTimestamp", "deletionTimestamp", "labels", "annotations",
    "ownerReferences",
)  # fmt: skip
_FIELDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "RayCluster": {
        "spec": ("suspend", "workerGroupSpecs"),
        "status": ("readyWorkerReplicas", "conditions"),
    },
    "RayJob": {"status": ("jobStatus", "jobDeploymentStatus", "reason", "message", "endTime")},
    "Job": {"spec": ("suspend",), "status": ("conditions", "ready", "terminating")},
}
"""What `seen` and `observe` read, by kind; of kinds that are not here everything but the metadata is kept."""


class View:
    """A run and its children as they are known.

    Attributes:
        uid: Of the run; children of an earlier run of its name are in the way.
        is_kuberay_missing: Whether the API server knows no RayCluster.
    """

    def __init__(self, key: Key) -> None:
        self.key, self.uid, self.is_kuberay_missing = key, "", False
        self._known: dict[tuple[str, str], tuple[int, bytes]] = {}

    @property
    def run(self) -> Object | None:
        """The run itself, None where it is gone."""
        return self.get(RUN, self.key.name)

    def put(self, kind: str, found: Mapping[str, Any]) -> bool:
        """Note what was said of an object.

        Returns:
            Whether it changes anything that is read: false for what is known already, or was overtaken.
        """
        metadata = found["metadata"]
        place, version = (kind, metadata["name"]), int(metadata["resourceVersion"])
        known, before = self._known.get(place, (-1, b""))
        if version <= known:
            return False
        text = json.dumps(trim(kind, found), separators=(",", ":")).encode()
        self._known[place] = (version, text)
        if kind == RUN:
            self.uid = metadata["uid"]
        return text != before

    def get(self, kind: str, name: str) -> Object | None:
        """An object, None where there is none."""
        known = self._known.get((kind, name))
        return None if known is None else _read(*known)

    def all(self, kind: str) -> Iterator[Object]:
        """The objects of a kind."""
        return (_read(*known) for (each, _), known in list(self._known.items()) if each == kind)


class Cache:
    """The views of runs.

    Args:
        clock: Seconds; monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._views: dict[Key, View] = {}
        self._looked: dict[Key, float] = {}

    def view(self, key: Key) -> View | None:
        """What is known of a run; None where it is to be looked at."""
        is_fresh = self._clock() - self._looked.get(key, -FRESH_SECONDS) < FRESH_SECONDS
        return self._views[key] if is_fresh else None

    def begin(self, key: Key) -> View:
        """A view to be filled by a look; what is said of the run meanwhile goes into it, too."""
        self._looked.pop(key, None)
        self._views[key] = View(key)
        return self._views[key]

    def finish(self, view: View) -> None:
        """The look is over: the view can be decided on, if nothing happened that made us forget it."""
        if self._views.get(view.key) is view:
            self._looked[view.key] = self._clock()

    def forget(self, key: Key) -> None:
        """Know nothing of a run any more: the next round looks."""
        self._views.pop(key, None)
        self._looked.pop(key, None)

    def note(self, found: Mapping[str, Any]) -> None:
        """Note the API server's answer to a write of ours."""
        self._put(found["kind"], found)

    def take(self, kind: str, event: Mapping[str, Any]) -> bool:
        """Note a watch event.

        Returns:
            Whether it tells anything new of what is read; true for a run of which nothing is known.
        """
        found = event["object"]
        key = _key(kind, found)
        if event["type"] == "DELETED":
            # Its run may be gone as well, and that event still on its way: nothing must be made in its place.
            self.forget(key)
            return True
        if kind == RUN:
            view = self._views.get(key)
            if view is not None and view.uid not in ("", found["metadata"]["uid"]):
                self.forget(key)
            if key not in self._views and event["type"] == "ADDED" and is_new(found):
                # Nothing was made for it yet. If that should be wrong, creating its first child tells so.
                self.finish(self.begin(key))
        return self._put(kind, found)

    def _put(self, kind: str, found: Mapping[str, Any]) -> bool:
        view = self._views.get(_key(kind, found))
        return view.put(kind, found) if view is not None else True


def _key(kind: str, found: Mapping[str, Any]) -> Key:
    """The run that an object is, or belongs to."""
    metadata = found["metadata"]
    return Key(metadata["namespace"], metadata["name"] if kind == RUN else metadata["labels"][RUN_LABEL])


def is_new(run: Mapping[str, Any]) -> bool:
    """Whether a run was just made: no round of it has ended yet."""
    metadata = run["metadata"]
    return not run.get("status") and metadata.get("generation") == 1 and "deletionTimestamp" not in metadata


def trim(kind: str, found: Mapping[str, Any]) -> Object:
    """An object with what is read of it alone, but for its resourceVersion."""
    fields = _FIELDS.get(kind)
    metadata = {name: found["metadata"][name] for name in _METADATA if name in found["metadata"]}
    if fields is None:
        return {**found, "kind": kind, "metadata": metadata}
    kept: Object = {"kind": kind, "metadata": metadata}
    for part, names in fields.items():
        stated = found.get(part) or {}
        kept[part] = {name: stated[name] for name in names if name in stated}
    if kind == "RayCluster":
        groups = kept["spec"].get("workerGroupSpecs") or []
        kept["spec"]["workerGroupSpecs"] = [{"replicas": group.get("replicas")} for group in groups]
    return kept


def _read(version: int, text: bytes) -> Object:
    found: Object = json.loads(text)
    found["metadata"]["resourceVersion"] = str(version)
    return found
