"""Superseded images leave buildah's storage and the registry, and what stays can still be built upon and pulled."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testbed import images, needs, pruning
from testbed.process import wait_until

DOCKERFILE = """\
FROM scratch AS packages
COPY lock /lock
FROM scratch AS project
COPY source /source
FROM packages
COPY --from=project /source /source
"""
LOCK_BYTES = 2**20


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Storage and registry of their own, in a folder."""
    if reason := needs.missing():
        pytest.skip(reason)
    needs.install(lambda _: None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        registry = f"127.0.0.1:{free.getsockname()[1]}"
    cache, state = tmp_path / "cache", tmp_path / "state"
    for folder in (cache, state):
        folder.mkdir()
    for module in (images, pruning):
        monkeypatch.setattr(module, "CACHE", cache)
        monkeypatch.setattr(module, "REGISTRY", registry)
    monkeypatch.setattr(images, "STATE", state)
    monkeypatch.setattr(images, "SCRATCH", state / "scratch")
    yield cache
    images.buildah("rmi", "--all", "--force")


class Registry:
    """The registry's daemon, while it is needed."""

    def __enter__(self) -> None:
        command = ["docker-registry", "serve", str(images.write_registry_settings())]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(images._is_registry_up, "the registry", 30)

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(20)


def build(context: Path, lock: int, source: int) -> str:
    """Build and push an image of a megabyte of packages, which does not compress, and a byte of source."""
    (context / "lock").write_bytes(random.Random(lock).randbytes(LOCK_BYTES))
    (context / "source").write_bytes(bytes([source]))
    file = context / "Dockerfile"
    file.write_text(DOCKERFILE)
    said = context / "id"
    images.buildah("build", "--layers", "--pull-never", "--iidfile", said, "--file", file, context)
    identity = said.read_text().removeprefix("sha256:")
    image = f"{images.REGISTRY}/llm360/trainer:{identity[:12]}"
    images.buildah("tag", identity, image)
    images.push(image)
    return image


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def test_replaced_images_go_with_what_only_they_held(caches: Path, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    with Registry():
        built = [build(context, lock=lock, source=number) for number, lock in enumerate([1, 2, 3, 3])]
    registry = caches / "registry"
    before = {folder: size(folder) for folder in (caches / "buildah", registry)}
    said: list[str] = []
    kept = pruning.prune(said.append)
    assert said == ["removing 2 images and stages that later ones replaced"]
    assert [image for image in built if image in kept] == built[2:]
    freed = {folder: bytes_before - size(folder) for folder, bytes_before in before.items()}
    assert all(bytes_freed >= 2 * LOCK_BYTES for bytes_freed in freed.values()), freed
    shutil.rmtree(context)
    context.mkdir()
    with Registry():
        assert [images.is_pushed(image) for image in built] == [False, False, True, True]
        images.buildah("pull", "--tls-verify=false", "--policy=always", built[3])
        assert images.is_pushed(build(context, lock=1, source=9)), "what went can come again"
    assert pruning.prune(said.append)
    assert len(said) == 2


def test_nothing_to_remove_is_not_mentioned(caches: Path) -> None:
    said: list[str] = []
    names = pruning.prune(said.append)
    assert (said, names) == ([], sorted(images.reference(name) for name in (*images.BINARIES, images.S3)))
