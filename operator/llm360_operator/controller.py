"""A round of a run: observe, decide, act, write the status. The only place that changes anything in the cluster.

Events, which change nothing, are handed to `announcing`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from llm360_operator.announcing import Announcer
from llm360_operator.api import Api, ApiError, Object, merge_patch
from llm360_operator.cache import Cache
from llm360_operator.case import Action, Create, Decision, Settings
from llm360_operator.evaluation import evaluation_refused, without_evaluation
from llm360_operator.metrics import Metrics
from llm360_operator.names import EVALUATION_LABEL, Key
from llm360_operator.observe import Observer, is_child, run_of
from llm360_operator.reconcile import reconcile, refused
from llm360_operator.seen import Seen, is_ended
from llm360_operator.sharing import Share, Sharing
from llm360_operator.verdict import condition, is_warning

log = logging.getLogger(__name__)

REFUSALS = (400, 403, 422)
"""Answers that say the object itself will not be taken: no rights, a quota, an admission rule."""

TOLD_AFTER = 5
"""Failures in a row to make a run's children, after which the run says so: some 3 s, which an API server that begins
anew, or elects a leader, may take without anybody having to hear of it."""

PINNED = ("config", "configDigest", "configGeneration")
"""Fields of the status that say which configuration was stored."""


class OutdatedError(Exception):
    """What was believed of a run turned out to be wrong: an object is there that was not known."""


class ForeignError(Exception):
    """An object bears the name of a child of ours, and belongs to somebody else."""


class Controller:
    """Takes runs further, one round at a time.

    Args:
        api: The Kubernetes API.
        cache: What is known of runs; told of all that is written.
        observer: Looks at a run's children.
        announcer: Takes what a person should hear of.
        settings: Images.
        metrics: Takes times and phases.
    """

    def __init__(
        self, api: Api, cache: Cache, observer: Observer, announcer: Announcer, settings: Settings, metrics: Metrics
    ) -> None:
        self._api, self._cache, self._observer, self._announcer = api, cache, observer, announcer
        self._settings, self._metrics = settings, metrics
        self._unmade: Counter[Key] = Counter()
        self._sharing = Sharing(settings.max_evaluations)
        self._has_counted = settings.max_evaluations is None
        self._counting = asyncio.Lock()
        self.wake: Callable[[Key], None] = lambda _: None
        """Told of a run whose turn has come before the time that it asked for."""

    async def round(self, key: Key) -> float | None:
        """One round of a run.

        Returns:
            After how many seconds the next is wanted; None for none.

        Raises:
            ApiError: the API server gave no answer, or the run was changed meanwhile; the round is taken again.
        """
        with self._metrics.round_seconds.time():
            try:
                try:
                    return await self._round(key)
                except OutdatedError:
                    self._cache.forget(key)
                    return await self._round(key)
            except BaseException:
                self._cache.forget(key)  # whatever was done or not: the next round looks
                raise

    async def _round(self, key: Key) -> float | None:
        known = self._cache.view(key)
        view = known or await self._observer.look(key)
        run = view.run
        if run is None or "deletionTimestamp" in run["metadata"]:
            # Its children go with it: each names it as its owner.
            self._cache.forget(key)
            self._metrics.note_phase(key, None)
            self._metrics.note_evaluation(key, None)
            self._note_share(key, None)
            self._unmade.pop(key, None)
            return None
        await self._count_evaluations()
        seen = await self._observer.observe(run, view)
        seen = replace(seen, evaluation_slots=self._sharing.slots(key, num_active(seen)))
        begun = time.thread_time()
        decision = reconcile(run, seen, self._settings)
        self._note_share(key, decision.share)  # before anything is waited for: the next run counts on it
        self._metrics.decision_seconds.observe(time.thread_time() - begun)
        decision = await self._act(run, seen, decision, is_known=known is not None)
        decision = await self._evaluate(run, decision, is_known=known is not None)
        decision = await self._store(run, decision)
        self._metrics.note_phase(key, *said(decision.status))
        self._metrics.note_evaluation(key, decision.status.get("evaluation"))
        is_lost = said(decision.status)[1] == "ConfigLost"
        if seen.foreign or seen.is_kuberay_missing or is_lost or decision.wait is None:
            # What is in the way is not watched, nor is a kind or a ConfigMap that is missing; and who waits for nothing
            # needs nothing.
            self._cache.forget(key)
        return decision.wait

    def _note_share(self, key: Key, share: Share | None) -> None:
        neediest = self._sharing.note(key, share)
        if neediest is not None:
            self.wake(neediest)

    async def _count_evaluations(self) -> None:
        """Where there is a bound: count what runs already, once, before anything is begun after a restart."""
        async with self._counting:
            if self._has_counted:
                return
            found: Counter[Key] = Counter()
            for namespace in self._settings.namespaces or ("",):
                for job in await self._api.list("Job", namespace, EVALUATION_LABEL):
                    key = run_of(job)
                    if key is not None:
                        found[key] += not is_ended(job)
            for key, running in found.items():
                self._sharing.note(key, Share(running, 0))
            self._has_counted = True

    async def _act(self, run: Object, seen: Seen, decision: Decision, *, is_known: bool) -> Decision:
        """Do what was decided; where something is refused for good, the decision becomes that refusal.

        Raises:
            ApiError: something else went wrong; the status has what must not be lost, and if that lasts says so.
        """
        key = Key.of(run)
        for action in decision.actions:
            try:
                await self._do(run, action, is_known=is_known)
            except ForeignError as error:
                return reconcile(run, replace(seen, foreign=(str(error),)), self._settings)
            except ApiError as error:
                if not isinstance(action, Create):
                    raise
                # What refers to the ConfigMap comes after it: from then on the run's identity holds.
                is_pinned = action.manifest["kind"] not in ("NetworkPolicy", "ConfigMap")
                memory = {name: decision.status.get(name) for name in PINNED} if is_pinned else {}
                refusal = refused(run, seen, f"{title(action)} cannot be made: {error.message}", memory)
                if error.status in REFUSALS:
                    return refusal
                self._unmade[key] += 1
                status = (run.get("status") or {}) | memory
                if self._unmade[key] >= TOLD_AFTER:
                    status = refusal.status
                    self._metrics.note_phase(key, *said(status))
                await self._write_status(run, status)
                raise
        self._unmade.pop(key, None)
        return decision

    async def _evaluate(self, run: Object, decision: Decision, *, is_known: bool) -> Decision:
        """Do what was decided about evaluations; what comes between is said, and keeps nothing else waiting."""
        for action in decision.evaluations:
            try:
                await self._do(run, action, is_known=is_known)
            except ApiError as error:
                self._metrics.count_error(error)
                log.warning("run %s/%s: %s: %s", *Key.of(run), title(action), error)
                return evaluation_refused(decision, f"{title(action)}: {error.message}", datetime.now(UTC))
        return decision

    async def _do(self, run: Object, action: Action, *, is_known: bool) -> None:
        """Do it; nothing was asked of the API server before where what is there `is_known` from earlier."""
        namespace, name = Key.of(run)
        if isinstance(action, Create):
            made = await self._api.create(action.manifest)
            if made is None and is_known:
                raise OutdatedError(title(action))
            if made is None and action.manifest["kind"] == "NetworkPolicy":
                await self._check_policy(run, name)
            if made is not None:
                self._cache.note(made)
            log.info("run %s/%s: %s %s", namespace, name, "finds" if made is None else "makes", title(action))
        else:
            log.info("run %s/%s: deletes %s", namespace, name, title(action))
            await self._api.delete(action.kind, namespace, action.name, is_forced=action.is_forced)
            self._cache.forget(Key(namespace, name))

    async def _check_policy(self, run: Object, name: str) -> None:
        """Whose policy is it that is there already? Of all children it alone is not looked at before."""
        found = await self._api.get("NetworkPolicy", run["metadata"]["namespace"], name)
        if found is None:
            raise OutdatedError(f"NetworkPolicy {name} was just removed")
        if not is_child(found, run):
            raise ForeignError(f"NetworkPolicy {name}")

    async def _store(self, run: Object, decision: Decision) -> Decision:
        """Write the status; what pods say of scores must not keep what the driver says from being written."""
        before = run.get("status") or {}
        try:
            await self._write_status(run, decision.status)
        except ApiError as error:
            if error.status not in REFUSALS or decision.status.get("evaluation") == before.get("evaluation"):
                raise
            self._metrics.count_error(error)
            decision = without_evaluation(decision, before, error.message, datetime.now(UTC))
            await self._write_status(run, decision.status)
        return decision

    async def _write_status(self, run: Object, status: dict[str, Any]) -> None:
        """Write what changed, and have it said what a person should hear of."""
        old = run.get("status") or {}
        changes = merge_patch(old, status)
        if not changes:
            return
        self._cache.note(await self._api.patch_status(run, changes))
        before, after = said(old), said(status)
        if before != after:
            log.info("run %s/%s: %s: %s", run["metadata"]["namespace"], run["metadata"]["name"], *after)
            self._announcer.say(run, condition(status, "Ready"), datetime.now(UTC), is_bad=is_warning(status))
        evaluated, was = condition(status, "Evaluated"), condition(old, "Evaluated")
        if evaluated and evaluated["status"] != "Unknown" and evaluated["reason"] != was.get("reason"):
            self._announcer.say(run, evaluated, datetime.now(UTC), is_bad=evaluated["status"] == "False")


def num_active(seen: Seen) -> int:
    """Evaluations that run, or are about to."""
    return sum(job.state == "Active" for job in seen.evaluations)


def title(action: Action) -> str:
    """Kind and name of what an action is about."""
    if isinstance(action, Create):
        return f"{action.manifest['kind']} {action.manifest['metadata']['name']}"
    return f"{action.kind} {action.name}"


def said(status: Mapping[str, Any]) -> tuple[str, str]:
    """Phase and reason: when one of them changes there is something to hear."""
    return status.get("phase", ""), condition(status, "Ready").get("reason", "")
