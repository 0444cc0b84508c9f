"""A disk that really fills up."""

import subprocess
from pathlib import Path

import pytest

from llm360.storage import StoreUnusableError, open_storage
from llm360.storage.base import MIB


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True)
    if made.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=30)


def everything_below(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_full_disk(small_disk, tmp_path):
    storage = open_storage(str(small_disk / "run"))
    storage.put("kept", b"1")
    (tmp_path / "source").write_bytes(bytes(3 * MIB))
    big = open_storage(str(tmp_path))
    for call in (
        lambda: storage.put("key", bytes(3 * MIB)),
        lambda: storage.create("key", bytes(3 * MIB)),
        lambda: storage.upload("key", tmp_path / "source"),
        lambda: big.download("source", small_disk / "target"),
    ):
        with pytest.raises(StoreUnusableError, match=r"cannot write .*: the disk of .*/disk.* is full") as error:
            call()
        assert (error.value.reason, error.value.exit_code) == ("DiskFull", 2)
        assert everything_below(small_disk) == ["kept"]
