from __future__ import annotations

import hashlib
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm360.errors import InputError, IntegrityError, ObjectNotFoundError, StorageError
from llm360.storage import Storage, open_storage
from llm360_trainer.stream.plan import ShardPart
from llm360_trainer.stream.shards import ShardCache


def part_of(data_set, chunk: int = 0, shard: int = 0) -> ShardPart:
    named = data_set.manifest.chunks[chunk].shards[shard]
    return ShardPart(named.key, named.sha256, named.bytes, named.rows, chunk, 0, 0, 1)


def read(cache: ShardCache, storage: Storage, part: ShardPart) -> bytes:
    with cache.open(storage, part) as file:
        return file.read()


class Remote(Storage):
    """A store that is no folder to the cache: it can only be downloaded from."""

    def __init__(self, uri: str) -> None:
        self._folder = open_storage(uri)
        self.uri, self.options = "s3://bucket", self._folder.options
        self.downloads: list[str] = []

    def download(self, key, path, digest=None):
        self.downloads.append(key)
        self._folder.download(key, path, digest)


Remote.__abstractmethods__ = frozenset()  # nothing else is asked of it


@pytest.fixture
def cache(tmp_path) -> ShardCache:
    return ShardCache(tmp_path / "cache")


@pytest.fixture
def hashed(monkeypatch) -> list[int]:
    """How often a whole file is hashed."""
    calls: list[int] = []
    digest = hashlib.file_digest

    def count(file, name):
        calls.append(file.fileno())
        return digest(file, name)

    monkeypatch.setattr("llm360_trainer.stream.shards.hashlib.file_digest", count)
    return calls


def flip_byte(path, at: int = 100) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_shard_in_a_folder_is_hashed_once_and_read_in_place(new_data_set, cache, hashed):
    data_set = new_data_set([[20]])
    for _ in range(3):
        assert read(cache, open_storage(data_set.uri), part_of(data_set)) == data_set.shard_path(0, 0).read_bytes()
    assert len(hashed) == 1
    assert not list(cache.folder.glob("*.parquet"))


@pytest.mark.parametrize("at", [0, 4, 100, -1])
def test_a_flipped_byte_is_refused_by_name(new_data_set, cache, at):
    data_set = new_data_set([[20, 20]])
    flip_byte(data_set.shard_path(0, 1), at)
    read(cache, open_storage(data_set.uri), part_of(data_set))
    with pytest.raises(IntegrityError, match=r"shard file:.*/0-1\.parquet of chunk 0 is not what the manifest names"):
        read(cache, open_storage(data_set.uri), part_of(data_set, shard=1))


def test_a_change_after_the_check_is_seen_even_with_the_old_times(new_data_set, cache):
    data_set = new_data_set([[20]])
    storage, path = open_storage(data_set.uri), data_set.shard_path(0, 0)
    read(cache, storage, part_of(data_set))
    before = path.stat()
    flip_byte(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IntegrityError, match=r"0-0\.parquet"):
        read(cache, storage, part_of(data_set))


def test_a_change_while_reading_is_seen(new_data_set, cache):
    data_set = new_data_set([[20]])
    with (
        pytest.raises(IntegrityError, match="was changed while it was read"),
        cache.open(open_storage(data_set.uri), part_of(data_set)),
    ):
        flip_byte(data_set.shard_path(0, 0))


def test_a_missing_shard_is_named(new_data_set, cache):
    data_set = new_data_set([[20]])
    data_set.shard_path(0, 0).unlink()
    for storage in (open_storage(data_set.uri), Remote(data_set.uri)):
        with pytest.raises(ObjectNotFoundError, match=r"/0-0\.parquet of chunk 0 is missing"):
            read(cache, storage, part_of(data_set))


def test_a_remote_shard_is_downloaded_once(new_data_set, cache):
    data_set = new_data_set([[20]])
    remote = Remote(data_set.uri)
    for _ in range(3):
        assert read(cache, remote, part_of(data_set)) == data_set.shard_path(0, 0).read_bytes()
    assert remote.downloads == ["0-0.parquet"]


def test_a_remote_shard_that_is_wrong_is_refused_and_not_kept(new_data_set, cache):
    data_set = new_data_set([[20]])
    flip_byte(data_set.shard_path(0, 0))
    with pytest.raises(IntegrityError, match=r"shard s3://bucket/0-0\.parquet of chunk 0 is not what the manifest"):
        read(cache, Remote(data_set.uri), part_of(data_set))
    assert not list(cache.folder.glob("*.parquet"))


def test_a_spoiled_copy_is_downloaded_again(new_data_set, cache):
    data_set = new_data_set([[20]])
    remote = Remote(data_set.uri)
    whole = read(cache, remote, part_of(data_set))
    (copy,) = cache.folder.glob("*.parquet")
    flip_byte(copy)
    assert read(cache, remote, part_of(data_set)) == whole
    assert len(remote.downloads) == 2


def test_the_least_recently_used_copies_make_room(new_data_set, tmp_path):
    data_set = new_data_set([[20, 21, 22]])
    parts = [part_of(data_set, shard=shard) for shard in range(3)]
    cache = ShardCache(tmp_path / "cache", limit_bytes=sum(part.bytes for part in parts) - 1)
    remote = Remote(data_set.uri)
    for part in (parts[0], parts[1], parts[0]):
        read(cache, remote, part)
    with cache.open(remote, parts[1]) as held:
        os.utime(cache.folder / f"{parts[0].sha256[7:]}.checked", (2e9, 2e9))  # the clock ticks too coarsely
        read(cache, remote, parts[2])  # parts[1] goes, its reader keeps it
        assert held.read() == data_set.shard_path(0, 1).read_bytes()
    assert len(remote.downloads) == 3
    read(cache, remote, parts[0])
    assert len(remote.downloads) == 3
    read(cache, remote, parts[1])
    assert len(remote.downloads) == 4


def test_a_copy_that_another_process_is_about_to_open_makes_no_room(new_data_set, tmp_path):
    """Each read locks its record anew, so one that begins inside another stands for another process."""
    data_set = new_data_set([[20, 21]])
    first, second = (part_of(data_set, shard=shard) for shard in range(2))
    cache = ShardCache(tmp_path / "cache", limit_bytes=1)

    class Interrupted(Remote):
        def download(self, key, path, digest=None):
            super().download(key, path, digest)
            read(cache, Remote(data_set.uri), second)

    assert read(cache, Interrupted(data_set.uri), first) == data_set.shard_path(0, 0).read_bytes()
    read(cache, Remote(data_set.uri), second)
    third = Remote(data_set.uri)
    read(cache, third, second)
    assert third.downloads == []


def test_a_copy_that_vanishes_while_room_is_made_is_no_error(new_data_set, tmp_path):
    data_set = new_data_set([[20]])
    cache = ShardCache(tmp_path / "cache", limit_bytes=1)
    cache.folder.mkdir(mode=0o700)
    (cache.folder / "gone.parquet").symlink_to("nowhere")  # listed, but not there
    (cache.folder / "gone.checked").touch()
    read(cache, Remote(data_set.uri), part_of(data_set))


def test_many_readers_of_a_cache_that_is_too_small(new_data_set, tmp_path):
    data_set = new_data_set([[20, 21, 22]])
    cache = ShardCache(tmp_path / "cache", limit_bytes=1)

    def read_all(reader: int) -> None:
        remote = Remote(data_set.uri)
        for turn in range(20):
            shard = (reader + turn) % 3
            part = part_of(data_set, shard=shard)
            assert read(cache, remote, part) == data_set.shard_path(0, shard).read_bytes()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_all, range(4)))


def test_the_cache_is_private(new_data_set, cache, monkeypatch):
    data_set = new_data_set([[20]])
    read(cache, open_storage(data_set.uri), part_of(data_set))
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    monkeypatch.setattr("llm360_trainer.stream.shards.os.getuid", lambda: 12345)
    with pytest.raises(StorageError, match="belongs to another user; make room there or point LLM360_CACHE_DIR"):
        read(cache, open_storage(data_set.uri), part_of(data_set))


def test_a_folder_that_cannot_be_used_is_named(new_data_set, tmp_path):
    data_set = new_data_set([[20]])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"in {tmp_path}/file/cache: Not a directory"):
        read(ShardCache(tmp_path / "file" / "cache"), open_storage(data_set.uri), part_of(data_set))


def test_the_environment_places_and_bounds_the_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("LLM360_CACHE_DIR", raising=False)
    monkeypatch.delenv("LLM360_CACHE_BYTES", raising=False)
    assert ShardCache.from_environment().folder.name == f"llm360-{os.getuid()}"
    monkeypatch.setenv("LLM360_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("LLM360_CACHE_BYTES", "1000")
    assert ShardCache.from_environment() == ShardCache(tmp_path, 1000)
    monkeypatch.setenv("LLM360_CACHE_BYTES", "32GB")
    with pytest.raises(InputError, match="LLM360_CACHE_BYTES is '32GB'"):
        ShardCache.from_environment()
