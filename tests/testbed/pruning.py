"""Images that nothing needs any more: found in buildah's storage, in the registry and on the nodes, and removed.

`up` does so before any pod is there, since each change of the project's packages leaves gigabytes in all three.

    buildah ── newest images of each name stay, others go with the layers that only they have
    registry ── the tags that buildah still has stay; what no tag leads to is collected
    nodes ── pulled images stay that have one of these names
"""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from testbed import images
from testbed.build import Say
from testbed.layout import CACHE, REGISTRY
from testbed.process import run

KEPT = 2
"""Images of a name that stay: the newest, and the one before it that a run may be rolled back to."""
STAGE_AGE = timedelta(days=1)
"""Age at which a stage of a build that no image stands on goes: the last one's stages make the next build quick."""
PROJECT, SYSTEM = "llm360", "testbed"
"""Folders of the registry: images of the project, and of the cluster's own parts."""


def superseded(listing: Iterable[Mapping[str, Any]], current: Iterable[str], now: datetime) -> list[str]:
    """Ids of the images in buildah's storage that nothing needs.

    Args:
        listing: as `buildah images --json` prints it: `id`, `names` (null: none), `createdatraw`.
        current: full names of the cluster's own images.
        now: the time.
    """
    listing, wanted = list(listing), set(current)
    by_repository: dict[str, list[tuple[datetime, str]]] = defaultdict(list)
    for image in listing:
        for name in image["names"] or []:
            if name.startswith(f"{REGISTRY}/{PROJECT}/"):
                by_repository[name.rpartition(":")[0]].append((_created(image), name))
    for tags in by_repository.values():
        wanted |= {name for _, name in sorted(tags)[-KEPT:]}
    return [image["id"] for image in listing if _is_superseded(image, wanted, now)]


def _is_superseded(image: Mapping[str, Any], wanted: set[str], now: datetime) -> bool:
    names = image["names"] or []
    if not names:
        return now - _created(image) > STAGE_AGE
    return all(name.startswith(f"{REGISTRY}/") for name in names) and wanted.isdisjoint(names)


def _created(image: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(image["createdatraw"])


def unused(rows: Iterable[Sequence[str]], wanted: Iterable[str]) -> list[str]:
    """References on a node of the images that have none of the wanted names.

    Args:
        rows: lines of `ctr images list`, whose first field is a reference and whose third is what it leads to; the
            kubelet's side gives every image three references, by name, by digest and by configuration.
        wanted: full names of the images that stay.
    """
    wanted = set(wanted)
    references: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        references[row[2]].append(row[0])
    return [each for group in references.values() if wanted.isdisjoint(group) for each in group]


def prune(say: Say) -> list[str]:
    """Remove what nothing needs from buildah's storage and, not running, the registry; give the names that stay."""
    current = [images.reference(name) for name in (*images.BINARIES, images.S3)]
    if gone := superseded(_listing(), current, datetime.now(UTC)):
        say(f"removing {len(gone)} images and stages that later ones replaced")
        images.buildah("rmi", "--force", *gone)
    names = {*current, *(name for image in _listing() for name in image["names"] or [])}
    tags = CACHE / "registry" / "docker" / "registry" / "v2" / "repositories"
    if stale := [path for path in tags.glob("*/*/_manifests/tags/*") if _name(path, tags) not in names]:
        for path in stale:
            shutil.rmtree(path)
        run(["docker-registry", "garbage-collect", "--delete-untagged", images.write_registry_settings()])
    return sorted(names)


def _name(tag: Path, repositories: Path) -> str:
    """Full name of the image that the registry's folder of a tag stands for."""
    folder, name = tag.relative_to(repositories).parts[:2]
    return f"{REGISTRY}/{folder}/{name}:{tag.name}"


def _listing() -> list[dict[str, Any]]:
    return list(json.loads(images.buildah("images", "--json") or "[]") or [])
