"""The ledger: a hash chain of small entries in a store, appended to by many writers, readable without LIST.

Appending takes no lock. A writer reads up to the head, sets `prev`, and creates the next number on condition
that it is free. Of several writers one wins; the others read what won, look again at what they were about to
say, and take the next number. A writer whose answer was lost finds its own entry there and is done.

    head() / history()  ──reads──▶  ledger/00000000.json … ledger/<head>.json     (cached, only new ones are read)
    append(build)       ──build(history)──▶ draft ──create ledger/<head+1>──▶ won │ taken: read it, start over
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from llm360.errors import InputError, IntegrityError, ObjectExistsError, ObjectNotFoundError, StoreUnusableError
from llm360.release.entries import EntryDraft, Genesis
from llm360.release.entry import Entry, new_uid, utc_now
from llm360.release.history import History
from llm360.release.layout import LEDGER_PREFIX, ledger_key
from llm360.storage.base import NotAFileError, Storage
from llm360.storage.http import ForbiddenError

_PARALLEL_READS = 16
"""Entries are a kilobyte or two: reading them is waiting, and sixteen wait as fast as one."""

_LAST_SEQ = 99_999_999
"""The largest number that a key's eight digits hold."""


class Ledger:
    """A release's chain. Safe to use from several threads.

    Args:
        storage: Rooted at the release.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._lock = threading.RLock()
        self._history = History()
        self._looked_beyond = False

    def head(self) -> Entry | None:
        """The last entry, read now; None where there is no release.

        Raises:
            IntegrityError: names the first broken link.
        """
        with self._lock:
            self._refresh()
            return self._history.head

    def entries(self) -> list[Entry]:
        """All entries, read now, checked, in order.

        Raises:
            IntegrityError: names the first broken link.
        """
        return self.history().entries

    def history(self) -> History:
        """What the chain says, read now: a snapshot.

        Raises:
            IntegrityError: names the first broken link.
        """
        with self._lock:
            self._refresh()
            return self._history.copy()

    def append(
        self,
        build: Callable[[History], EntryDraft],
        guard: Callable[[History], None] | None = None,
        *,
        uid: str | None = None,
    ) -> Entry:
        """Append one entry after the present head, whoever else appends at the same time.

        Args:
            build: Makes the entry from the history before it; called again whenever another writer was first.
                It must not change the history.
            guard: Looks at the same history first and raises to give up.
            uid: 32 hex digits that stand for this one append. Where the outcome of an earlier call is unknown
                (`StorageUnavailableError`), calling again with the same uid appends at most once.

        Returns:
            The entry as stored.

        Raises:
            StorageUnavailableError: the store gave no answer; the entry may be there or not.
            IntegrityError: the chain is broken.
            InputError: there is no release to append to.
        """
        uid = uid or new_uid()
        with self._lock:
            while True:
                self._refresh()
                done = self._history.entry_of(uid)
                if done is not None:
                    return done
                if guard is not None:
                    guard(self._history)
                entry = self._next(build(self._history), uid)
                self._refuse_hole()
                try:
                    self.storage.create(entry.key, entry.data)
                except ObjectExistsError:
                    # Our own bytes after a lost answer, or another writer's: the next round reads them and knows.
                    self._accept(self._read(entry.seq))
                    continue
                self._accept(entry)
                return entry

    def _next(self, draft: EntryDraft, uid: str) -> Entry:
        head = self._history.head
        if (head is None) != isinstance(draft, Genesis):
            raise InputError(
                f"{self.storage.uri} holds no release yet: start a run there first"
                if head is None
                else f"{self.storage.uri} holds a release already; a ledger has one genesis entry"
            )
        return Entry(len(self._history.entries), head.name if head else None, uid, utc_now(), draft)

    def _refresh(self) -> None:
        """Read and check the entries after those already known."""
        known = len(self._history.entries)
        stop = find_head(self.storage, known) + 1
        for entry in self._read_range(known, stop):
            self._accept(entry)

    def _refuse_hole(self) -> None:
        """Once, before the first append: see that nothing lies behind the head.

        An entry that got lost would else be replaced by the next one, and what followed it be forgotten.
        """
        if self._looked_beyond:
            return
        head = len(self._history.entries) - 1
        try:
            beyond = entry_beyond(self.storage, head)
        except StoreUnusableError:  # it does not list; what it does not allow either, the create itself tells
            beyond = None
        if beyond is not None:
            raise IntegrityError(
                f"{ledger_key(head + 1)} is missing although {beyond} is there: an entry was lost, and one more would"
                " take its place; restore it from a copy of the release"
            )
        self._looked_beyond = True

    def _read_range(self, start: int, stop: int) -> Iterator[Entry]:
        if stop - start <= 1:
            yield from map(self._read, range(start, stop))
            return
        with ThreadPoolExecutor(min(_PARALLEL_READS, stop - start)) as pool:
            yield from pool.map(self._read, range(start, stop))

    def _read(self, seq: int) -> Entry:
        return read_entry(self.storage, seq)

    def _accept(self, entry: Entry) -> None:
        """Check an entry's link to the one before it and take it in."""
        problem = check_link(entry, self._history.head)
        if problem is None and self._history.entry_of(entry.uid) is not None:
            problem = f"repeats the uid {entry.uid} of an earlier entry"
        if problem is not None:
            raise IntegrityError(f"{entry.key} {problem}")
        self._history.apply(entry)


def read_entry(storage: Storage, seq: int) -> Entry:
    """Read an entry of a number below the head's and check its form.

    Raises:
        IntegrityError: it is missing, malformed or not canonical.
    """
    try:
        data = storage.get(ledger_key(seq))
    except NotAFileError as error:
        raise IntegrityError(f"{ledger_key(seq)} is no regular file; restore it from a copy of the release") from error
    except ObjectNotFoundError as error:
        raise IntegrityError(f"{ledger_key(seq)} is missing although later entries were there") from error
    return Entry.decode(data, seq)


def check_link(entry: Entry, head: Entry | None) -> str | None:
    """What is wrong with an entry as the follower of `head` (None: as the first of all); None where nothing is."""
    expected = head.name if head else None
    if entry.prev != expected:
        return f"follows the entry {entry.prev}; the one before it is {expected}"
    if (head is None) != isinstance(entry.body, Genesis):
        return f"is of kind '{entry.kind}'; the first entry, and only it, is 'genesis'"
    return None


def find_head(storage: Storage, known: int = 0) -> int:
    """The number of the last entry, by doubling and bisection over `exists`; no LIST is needed.

    Args:
        storage: Rooted at the release.
        known: How many entries are known to be there.

    Returns:
        The last entry's number; `known - 1` where there is none after them.

    Raises:
        StoreUnusableError: the store says of every key that it exists.
    """
    below, width = known - 1, 1
    while entry_exists(storage, below + width):
        below += width
        width *= 2
        if below + width > _LAST_SEQ:
            raise StoreUnusableError(
                f"{storage.uri} says that {ledger_key(below)} exists, as a server does that has a page for every"
                " address; a release is read from one that answers 404 where there is nothing",
                reason="AnswersToEverything",
            )
    above = below + width
    while above - below > 1:
        middle = (below + above) // 2
        if entry_exists(storage, middle):
            below = middle
        else:
            above = middle
    return below


def entry_exists(storage: Storage, seq: int) -> bool:
    """Whether there is an entry of a number.

    S3 refuses the public (403) what is not there where they may read objects and not list them. The first entry
    is there in every release, so where that one is refused, reading is; of later ones 403 means: not there.
    """
    try:
        return storage.exists(ledger_key(seq))
    except ForbiddenError:
        if seq == 0:
            raise
        return False


def entry_beyond(storage: Storage, head: int) -> str | None:
    """The key of an entry behind a hole after `head`, by one LIST; None where there is none.

    Raises:
        StoreUnusableError: the store cannot list.
    """
    for info in storage.list(f"{LEDGER_PREFIX}/"):
        number = info.key.removeprefix(f"{LEDGER_PREFIX}/").removesuffix(".json")
        if number.isdecimal() and int(number) > head + 1:
            # Runs go on meanwhile: what was appended since the head was found leaves no hole.
            return None if entry_exists(storage, head + 1) else info.key
    return None
