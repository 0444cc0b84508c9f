"""The ledger alone: form, links, appending, lost answers; and what each broken link is called."""

from __future__ import annotations

import json
import threading

import pytest

from llm360.canonical import canonical_json, sha256_digest
from llm360.errors import InputError, IntegrityError, ObjectExistsError, StorageUnavailableError, StoreUnusableError
from llm360.release.create import create_release
from llm360.release.entries import Analysis, Attempt
from llm360.release.entry import Entry
from llm360.release.layout import ledger_key
from llm360.release.ledger import Ledger, find_head
from llm360.storage.http import ForbiddenError


def analysis(name="a"):
    return Analysis(name=name, prefix=f"analysis/{name}", digests={"x": "sha256:" + "0" * 64})


@pytest.fixture
def ledger(memory):
    return create_release(memory, {"a": 1})


def test_entry_is_stored_as_canonical_json_named_by_its_digest(memory, ledger):
    entry = ledger.append(lambda _: analysis())
    data = memory.get("ledger/00000001.json")
    assert entry.data == data
    assert entry.name == sha256_digest(data)
    assert entry.prev == sha256_digest(memory.get("ledger/00000000.json"))
    assert Entry.decode(data, 1) == entry


def test_none_is_left_out_except_the_first_prev(memory, ledger):
    ledger.append(lambda _: analysis())
    assert b'"prev":null' in memory.get("ledger/00000000.json")
    assert b"null" not in memory.get("ledger/00000001.json")


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 33])
def test_head_is_found_by_few_questions_and_without_list(memory, count):
    for seq in range(count):
        memory.create(ledger_key(seq), b"")
    memory.questions = 0
    assert find_head(memory) == count - 1
    assert memory.questions <= 2 * count.bit_length() + 2


def test_head_behind_a_host_that_forbids_what_is_not_there(memory, ledger, monkeypatch):
    """As S3 does where the public may read objects and not list them."""
    for _ in range(4):
        ledger.append(lambda _: analysis())

    def exists(key):
        if key not in memory.objects:
            raise ForbiddenError(f"{key} may not be read")
        return True

    monkeypatch.setattr(memory, "exists", exists)
    assert find_head(memory) == 4
    assert len(Ledger(memory).entries()) == 5
    del memory.objects[ledger_key(0)]
    with pytest.raises(StoreUnusableError, match=r"00000000\.json may not be read"):
        find_head(memory)


def test_host_that_has_a_page_for_every_address(memory, monkeypatch):
    asked = []
    monkeypatch.setattr(memory, "exists", lambda key: asked.append(key) or True)
    with pytest.raises(StoreUnusableError, match="answers 404 where there is nothing"):
        find_head(memory)
    assert len(asked) < 30
    assert max(map(len, asked)) == len(ledger_key(0))


@pytest.mark.parametrize("lost", [1, 3, 4, 7])
def test_lost_entry_is_not_replaced_by_the_next(memory, ledger, lost):
    """Also where the search for the head happens to ask for the very entry that is lost."""
    for _ in range(8):
        ledger.append(lambda _: analysis())
    data = memory.objects.pop(ledger_key(lost))
    with pytest.raises(IntegrityError, match=rf"ledger/{lost:08d}\.json is missing although"):
        Ledger(memory).append(lambda _: analysis())
    assert ledger_key(lost) not in memory.objects
    memory.objects[ledger_key(lost)] = data
    assert Ledger(memory).append(lambda _: analysis()).seq == 9


def test_store_is_listed_once_before_the_first_append(memory, ledger, monkeypatch):
    listed, list_all = [], memory.list
    monkeypatch.setattr(memory, "list", lambda prefix: listed.append(prefix) or list_all(prefix))
    other = Ledger(memory)
    other.entries()
    assert not listed
    for _ in range(3):
        other.append(lambda _: analysis())
    assert listed == ["ledger/"]


def test_entries_of_other_writers_while_the_store_is_listed_leave_no_hole(memory, ledger, monkeypatch):
    writer, list_all = Ledger(memory), memory.list

    def busy(prefix):
        for _ in range(2):
            ledger.append(lambda _: analysis())
        return list_all(prefix)

    monkeypatch.setattr(memory, "list", busy)
    assert writer.append(lambda _: analysis()).seq == len(memory.objects) - 2


def test_store_that_does_not_list_is_appended_to(memory, ledger, monkeypatch):
    def refuse(prefix):
        raise StoreUnusableError("may not be listed")

    monkeypatch.setattr(memory, "list", refuse)
    assert Ledger(memory).append(lambda _: analysis()).seq == 1


@pytest.mark.parametrize("value", [2**60, float("nan"), "\ud800", {"\ud800": 1}, 10**400], ids=str)
def test_entry_that_has_no_canonical_form_is_named(memory, ledger, value):
    claim = Attempt(attempt=1, step=0, tokens=0, world_size=1, device="cpu", operations={"x": 1})
    stored = json.loads(ledger.append(lambda _: claim).data)
    memory.objects[ledger_key(1)] = json.dumps(stored | {"operations": {"x": value}}).encode()
    with pytest.raises(IntegrityError, match=r"ledger/00000001\.json is not"):
        Ledger(memory).entries()


def test_only_new_entries_are_read(memory, ledger):
    for _ in range(10):
        ledger.append(lambda _: analysis())
    other = Ledger(memory)
    other.history()
    memory.gets = 0
    other.history()
    assert memory.gets == 0
    ledger.append(lambda _: analysis())
    assert len(other.entries()) == 12
    assert memory.gets == 1


def test_snapshot_does_not_change(ledger):
    history = ledger.history()
    ledger.append(lambda _: analysis())
    assert len(history.entries) == 1
    assert not history.analyses


def test_lost_answer_is_found_again(memory, ledger):
    """The create took effect and the retry inside the store finds the key taken: it is our own."""

    def lose(key, data):
        memory.create_now(key, data)
        raise ObjectExistsError(key)

    memory.on_create = lose
    entry = ledger.append(lambda _: analysis())
    memory.on_create = None
    assert [e.name for e in Ledger(memory).entries()][-1] == entry.name
    assert len(Ledger(memory).entries()) == 2


def test_unknown_outcome_is_safe_to_repeat(memory, ledger):
    uid = "1" * 32

    def lose(key, data):
        memory.create_now(key, data)
        raise StorageUnavailableError("no answer")

    memory.on_create = lose
    with pytest.raises(StorageUnavailableError):
        ledger.append(lambda _: analysis(), uid=uid)
    memory.on_create = None
    Ledger(memory).append(lambda _: analysis("other"))
    assert ledger.append(lambda _: analysis(), uid=uid).seq == 1
    assert len(ledger.entries()) == 3


def test_rebuilt_on_top_of_whoever_was_first(memory, ledger):
    other = Ledger(memory)
    seen = []

    def build(history):
        seen.append(len(history.entries))
        if len(seen) == 1:
            other.append(lambda _: analysis("first"))
        return analysis(f"after-{len(history.entries)}")

    entry = ledger.append(build)
    assert seen == [1, 2]
    assert (entry.seq, entry.body.name) == (2, "after-2")


def test_many_threads_and_ledgers(memory, ledger):
    ledgers = [Ledger(memory) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda i=i: [ledgers[i % 4].append(lambda _: analysis(f"t{i}")) for _ in range(10)])
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    names = [entry.body.name for entry in Ledger(memory).entries()[1:]]
    assert sorted(names) == sorted(f"t{i}" for i in range(8) for _ in range(10))


def test_guard_gives_up_before_anything_is_written(memory, ledger):
    def guard(history):
        raise InputError("no")

    with pytest.raises(InputError):
        ledger.append(lambda _: analysis(), guard)
    assert len(memory.objects) == 2


def test_nothing_to_append_to(memory):
    with pytest.raises(InputError, match="holds no release yet"):
        Ledger(memory).append(lambda _: analysis())


def change(memory, number, /, **fields):
    entry = Entry.decode(memory.get(ledger_key(number)), number)
    memory.objects[ledger_key(number)] = canonical_json(json.loads(entry.data) | fields)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda m: m.objects.update({ledger_key(2): b"{"}), "ledger/00000002.json is not a ledger entry"),
        (lambda m: m.objects.update({ledger_key(2): b"[]"}), "expected an object, found list"),
        (lambda m: m.objects.update({ledger_key(2): b"{}"}), "field 'seq' is missing"),
        (lambda m: change(m, 2, seq="2"), "seq is '2'"),
        (lambda m: change(m, 2, seq=1), "carries number 1; expected 2"),
        (lambda m: change(m, 2, prev="x"), "prev is 'x'"),
        (lambda m: change(m, 2, prev=None), "ledger/00000002.json follows the entry None"),
        (lambda m: change(m, 2, uid="x"), "uid is 'x'"),
        (lambda m: change(m, 2, time="now"), "time is 'now'"),
        (lambda m: change(m, 2, kind="party"), "ledger/00000002.json is not a ledger entry"),
        (lambda m: change(m, 2, name="b c"), "name: String should match pattern"),
        (lambda m: change(m, 2, extra=1), "extra"),
        (lambda m: change(m, 2, digests={"x": "md5:1"}), "digests"),
        (lambda m: change(m, 2, digests={"../x": "sha256:" + "0" * 64}), "relative key"),
        (lambda m: change(m, 2, name="b"), "ledger/00000003.json follows"),
        (lambda m: m.objects.update({ledger_key(2): m.get(ledger_key(2)) + b"\n"}), "canonical form"),
    ],
)
def test_broken_link_is_named(memory, ledger, fault, message):
    for _ in range(3):
        ledger.append(lambda _: analysis())
    fault(memory)
    with pytest.raises(IntegrityError) as caught:
        Ledger(memory).entries()
    assert message in caught.value.message


def test_missing_entry_is_named(memory, ledger):
    for _ in range(8):
        ledger.append(lambda _: analysis())
    memory.delete(ledger_key(5))
    with pytest.raises(IntegrityError, match=r"ledger/00000005\.json is missing"):
        Ledger(memory).entries()


def test_entry_that_vanishes_from_under_a_writer(memory, ledger):
    """A store that says "taken" and then has nothing there is not waited for in an endless loop."""

    def take(key, data):
        raise ObjectExistsError(key)

    memory.on_create = take
    with pytest.raises(IntegrityError, match=r"ledger/00000001\.json is missing"):
        ledger.append(lambda _: analysis())
