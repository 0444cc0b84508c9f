"""Starting a release: once, by whoever is first, and only where the store can hold one."""

from __future__ import annotations

import pytest

from llm360.canonical import digest_of
from llm360.errors import InputError, IntegrityError, StorageUnavailableError
from llm360.release.create import create_release, load_config, open_release
from llm360.release.layout import config_key
from llm360.release.ledger import Ledger

CONFIG = {"model": {"layers": 2, "heads": 4}, "training": {"batch": 8}}


def test_genesis_names_the_stored_config(memory):
    history = create_release(memory, CONFIG).history()
    assert history.config_digest == digest_of(CONFIG)
    assert load_config(memory, history.config_digest) == CONFIG
    assert sorted(memory.objects) == [config_key(digest_of(CONFIG)), "ledger/00000000.json"]


def test_again_is_the_same_release(memory):
    first = create_release(memory, CONFIG).head()
    assert create_release(memory, CONFIG).head() == first
    assert open_release(memory).head() == first


def test_other_identity_is_refused_by_its_fields_and_leaves_nothing(memory):
    create_release(memory, CONFIG)
    before = dict(memory.objects)
    other = {"model": {"layers": 3, "heads": 4}, "training": {"batch": 8}, "seed": 1}
    message = r"spec\.model\.layers: was 2, is now 3; spec\.seed: was unset, is now 1"
    with pytest.raises(InputError, match=message) as caught:
        create_release(memory, other)
    assert caught.value.reason == "IdentityChanged"
    assert memory.objects == before


@pytest.mark.parametrize(("config", "wins"), [(CONFIG, True), ({"seed": 1}, False)])
def test_two_creators_at_once(memory, config, wins):
    """One wins; the other goes on with what won, if it is the same run."""

    def beaten(key, data):
        if key == "ledger/00000000.json":
            memory.on_create = None
            create_release(memory, CONFIG)
        memory.create_now(key, data)

    memory.on_create = beaten
    if wins:
        assert len(create_release(memory, config).entries()) == 1
    else:
        with pytest.raises(InputError, match=r"spec\.seed: was unset, is now 1"):
            create_release(memory, config)
    assert Ledger(memory).history().config_digest == digest_of(CONFIG)


def test_store_without_conditional_create_is_refused_and_left_empty(memory):
    memory.on_create = memory.put
    with pytest.raises(InputError, match="does not honour conditional writes"):
        create_release(memory, CONFIG)
    assert not memory.objects


def test_lost_answer_of_genesis(memory):
    def lose(key, data):
        memory.create_now(key, data)
        if key.endswith("00.json"):
            memory.on_create = None
            raise StorageUnavailableError("no answer")

    memory.on_create = lose
    with pytest.raises(StorageUnavailableError):
        create_release(memory, CONFIG)
    assert len(create_release(memory, CONFIG).entries()) == 1


def test_nothing_to_open(memory):
    with pytest.raises(InputError, match="there is no release") as caught:
        open_release(memory)
    assert caught.value.reason == "ReleaseMissing"


def test_config_is_not_used_before_its_digest_is_checked(memory):
    digest = create_release(memory, CONFIG).history().config_digest
    memory.objects[config_key(digest)] = b"{}"
    with pytest.raises(IntegrityError, match="has digest"):
        load_config(memory, digest)
