"""A controller whose Kubernetes API is a fake of our own interface; below it everything is real."""

import asyncio
import atexit
import copy

from llm360_operator.announcing import Announcer
from llm360_operator.api import ApiError, KindMissingError
from llm360_operator.cache import Cache
from llm360_operator.case import Settings
from llm360_operator.controller import Controller
from llm360_operator.handlers import CHILDREN
from llm360_operator.metrics import Metrics
from llm360_operator.names import Key
from llm360_operator.observe import Observer

KEY = Key("research", "amber")
RUNNER = asyncio.Runner()
"""One loop for all rounds: what waits for another belongs to its loop."""
atexit.register(RUNNER.close)
DONE = [{"type": "Complete", "status": "True", "lastTransitionTime": "2026-11-22T12:00:00Z"}]


class FakeApi:
    """Objects by kind, namespace and name. `refuse` maps a kind to the error that its creation meets."""

    def __init__(self, *objects):
        self.objects, self.requests, self.refuse, self.missing = {}, [], {}, set()
        self.events, self.version = [], 0
        self.refuse_status = lambda _: False
        for made in objects:
            self.put(made)

    def put(self, made):
        metadata = made["metadata"]
        metadata.setdefault("uid", f"uid-{len(self.objects)}")
        metadata.setdefault("creationTimestamp", "2026-11-22T12:00:00Z")
        self.objects[made["kind"], metadata["namespace"], metadata["name"]] = copy.deepcopy(made)
        return self.changed(made["kind"], metadata["namespace"], metadata["name"])

    def changed(self, *place):
        """An object as it is after a change."""
        self.version += 1
        self.objects[place]["metadata"]["resourceVersion"] = str(self.version)
        return copy.deepcopy(self.objects[place])

    async def get(self, kind, namespace, name):
        self.requests.append(f"get {kind}")
        if kind in self.missing:
            raise KindMissingError(404, "KindMissing", "the server could not find the requested resource")
        return copy.deepcopy(self.objects.get((kind, namespace, name)))

    async def list(self, kind, namespace, selector):
        self.requests.append(f"list {kind}")
        return [
            copy.deepcopy(made)
            for (made_kind, made_namespace, _), made in self.objects.items()
            if made_kind == kind
            and namespace in ("", made_namespace)
            and selects(selector, made["metadata"].get("labels", {}))
        ]

    async def create(self, manifest):
        kind, metadata = manifest["kind"], manifest["metadata"]
        if kind == "Event":
            self.events.append(manifest)
            return manifest
        self.requests.append(f"create {kind}")
        if kind in self.refuse:
            raise self.refuse[kind]
        if (kind, metadata["namespace"], metadata["name"]) in self.objects:
            return None
        return self.put(manifest)

    async def delete(self, kind, namespace, name, *, is_forced=False):
        assert not is_forced
        self.requests.append(f"delete {kind}")
        self.objects.pop((kind, namespace, name), None)

    async def patch_status(self, run, changes):
        self.requests.append("patch status")
        if run["metadata"]["resourceVersion"] != self.objects["LLM360Run", *KEY]["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        if self.refuse_status(changes):
            raise ApiError(422, "Invalid", "status.evaluation is invalid")
        found = self.objects["LLM360Run", *KEY]
        found["status"] = merged(found.get("status", {}), changes)
        return self.changed("LLM360Run", *KEY)

    @property
    def status(self):
        return self.objects["LLM360Run", *KEY].get("status", {})

    def update(self, kind, name, **changes):
        self.objects[kind, "research", name].update(changes)


def merged(target, patch):
    """What an API server makes of a merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    kept = target if isinstance(target, dict) else {}
    changed = {name: merged(kept.get(name), value) for name, value in patch.items() if value is not None}
    return {name: value for name, value in kept.items() if name not in patch} | changed


def selects(selector, labels):
    """Whether labels are as `a=b,c` asks: one of a value, and one that is there at all."""
    parts = [part.partition("=") for part in selector.split(",")]
    return all(labels.get(name) == value if equal else name in labels for name, equal, value in parts)


class Operator:
    """A controller over a fake API; `driver` is what the run's driver says, `now` its clock.

    What is watched is told before each round, unless `is_deaf`.
    """

    def __init__(self, run, **settings):
        self.api, self.driver, self.asked, self.now, self.is_deaf = FakeApi(run), None, [], 0.0, False
        self.restart(**settings)

    def restart(self, **settings):
        self.metrics, self.told = Metrics(), {}
        self.cache = Cache(lambda: self.now)
        observer = Observer(self.api, self.cache, self.fetch)
        self.announcer = Announcer(self.api.create)
        settings = Settings("operator:1", "trainer:1", **settings)
        self.controller = Controller(self.api, self.cache, observer, self.announcer, settings, self.metrics)

    async def fetch(self, url):
        self.asked.append(url)
        return self.driver

    def watch(self, *, is_lost=False):
        """Tell the cache of all that has changed, unless that is lost; returns how much of it was news."""
        now = {place: made for place, made in self.api.objects.items() if is_watched(made)}
        events = []
        for place, made in now.items():
            before = self.told.get(place)
            if before != made:
                events.append((place[0], None if before is None else "MODIFIED", self.api.changed(*place)))
        for place in self.told.keys() - now.keys():
            self.api.version += 1
            gone = copy.deepcopy(self.told[place])
            gone["metadata"]["resourceVersion"] = str(self.api.version)
            events.append((place[0], "DELETED", gone))
        self.told = {place: copy.deepcopy(made) for place, made in now.items()}
        return (
            0 if is_lost else sum(self.cache.take(kind, {"type": what, "object": made}) for kind, what, made in events)
        )

    def round(self):
        """One round: what it asked of the API, and when it wants the next."""
        if not self.is_deaf:
            self.watch()
        self.api.requests.clear()
        return RUNNER.run(self._round())

    async def _round(self):
        wait = await self.controller.round(KEY)
        requests = list(self.api.requests)
        announcing = asyncio.create_task(self.announcer.run())
        await self.announcer.finish()
        announcing.cancel()
        return requests, wait


def is_watched(made):
    """As the handlers' selectors say."""
    is_child = made["kind"] in CHILDREN and "llm360.ai/run" in made["metadata"].get("labels", {})
    return made["kind"] == "LLM360Run" or is_child
