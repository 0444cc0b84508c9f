"""Which images go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from testbed.layout import REGISTRY
from testbed.pruning import STAGE_AGE, superseded, unused

NOW = datetime(2030, 1, 1, tzinfo=UTC)
BASE = "docker.io/library/debian:bookworm-slim"
PAUSE = f"{REGISTRY}/testbed/pause:3.10"


def image(number, *names, age=0):
    """Made so many seconds ago; buildah prints nanoseconds."""
    created = (NOW - timedelta(seconds=age)).strftime("%Y-%m-%dT%H:%M:%S.000000001Z")
    return {"id": f"id{number}", "names": [*names] or None, "createdatraw": created}


def trainer(tag):
    return f"{REGISTRY}/llm360/trainer:{tag}"


def test_the_newest_two_of_each_name_stay():
    listing = [
        image(1, trainer("old"), age=300),
        image(2, trainer("newest"), age=100),
        image(3, trainer("before"), age=200),
        image(4, f"{REGISTRY}/llm360/operator:only", age=900_000),
    ]
    assert superseded(listing, [PAUSE], NOW) == ["id1"]


def test_parts_of_the_cluster_stay_in_the_version_of_now():
    listing = [image(1, PAUSE, age=900_000), image(2, f"{REGISTRY}/testbed/pause:3.9")]
    assert superseded(listing, [PAUSE], NOW) == ["id2"]


def test_what_is_not_the_testbeds_stays():
    assert superseded([image(1, BASE, age=900_000), image(2, "localhost/mine:1", trainer("x"))], [PAUSE], NOW) == []


def test_stages_without_a_name_stay_for_a_day():
    listing = [image(1, age=STAGE_AGE.total_seconds() + 1), image(2, age=STAGE_AGE.total_seconds() - 1)]
    assert superseded(listing, [PAUSE], NOW) == ["id1"]


def test_an_image_of_two_names_stays_while_one_is_wanted():
    other = f"{REGISTRY}/llm360/probe:x"
    listing = [image(1, trainer("a"), other, age=3), image(2, trainer("b"), age=2), image(3, trainer("c"), age=1)]
    assert superseded(listing, [PAUSE], NOW) == []


def test_all_references_of_an_image_go_from_a_node_or_none():
    rows = [
        (trainer("old"), "manifest", "sha256:1"),
        (f"{REGISTRY}/llm360/trainer@sha256:1", "manifest", "sha256:1"),
        ("sha256:c1", "manifest", "sha256:1"),
        (trainer("new"), "manifest", "sha256:2"),
        (f"{REGISTRY}/llm360/trainer@sha256:2", "manifest", "sha256:2"),
    ]
    assert unused(rows, [trainer("new"), PAUSE]) == [row[0] for row in rows[:3]]
