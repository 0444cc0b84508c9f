"""A release in a folder on a cluster of several machines: refused where one of them does not see the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from llm360.errors import InputError
from llm360.storage import open_storage
from llm360_trainer.driver import shared_folder
from llm360_trainer.driver.shared_folder import check_shared_folder, other_machines, sees


def node(address: str, name: str = "b", *, alive: bool = True, **resources: float) -> dict[str, Any]:
    """As `ray.nodes()` lists one."""
    return {
        "NodeID": f"id-{address}",
        "Alive": alive,
        "NodeManagerAddress": address,
        "NodeManagerHostname": name,
        "Resources": resources or {"CPU": 8.0, "memory": 1.0},
    }


NODES = [
    node("10.0.0.1", "a"),
    node("10.0.0.2"),
    node("10.0.0.2"),
    node("10.0.0.3", "head", memory=1.0),
    node("10.0.0.4", "gone", alive=False),
    node("10.0.0.5", "c", GPU=8.0),
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A cluster of which this machine is a part, and the folder that each of the other machines sees."""
    folders: dict[str, str] = {}

    def ask(machines: dict[str, str], _uri: str, key: str) -> dict[str, bool]:
        asked.update(machines)
        return {machine: (Path(folders[machine]) / key).exists() for machine in machines if machine in folders}

    asked: dict[str, str] = {}
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr(shared_folder, "ask", ask)
    return folders


def test_the_machines_that_work_besides_this_one_are_asked_once_each() -> None:
    assert other_machines(NODES, "10.0.0.1") == {"b (10.0.0.2)": "id-10.0.0.2", "c (10.0.0.5)": "id-10.0.0.5"}


def test_a_folder_that_all_machines_share_is_taken_and_left_as_it_was(cluster: dict[str, str], tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "run"))
    cluster |= dict.fromkeys(("b (10.0.0.2)", "c (10.0.0.5)"), str(tmp_path / "run"))
    check_shared_folder(storage)
    assert list(storage.list()) == []


def test_machines_that_do_not_see_the_folder_are_named(cluster: dict[str, str], tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "run"))
    cluster |= {"b (10.0.0.2)": str(tmp_path / "run"), "c (10.0.0.5)": str(tmp_path / "other")}
    with pytest.raises(InputError) as caught:
        check_shared_folder(storage)
    assert caught.value.reason == "FolderNotShared"
    assert f"folder {storage.uri}, but what is written there is not seen on c (10.0.0.5) of" in caught.value.message
    assert list(storage.list()) == []


def test_a_machine_that_does_not_answer_is_passed_over(cluster: dict[str, str], tmp_path: Path) -> None:
    check_shared_folder(open_storage(str(tmp_path / "run")))


def test_a_bucket_and_a_single_machine_are_not_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "10.0.0.1")
    monkeypatch.setattr(ray, "nodes", lambda: [node("10.0.0.1"), node("10.0.0.1")])
    monkeypatch.setattr(shared_folder, "ask", lambda *_: pytest.fail("nobody is to be asked"))
    check_shared_folder(open_storage("s3://bucket/run"))
    check_shared_folder(open_storage(str(tmp_path / "run")))


def test_a_file_may_take_its_time_to_appear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    looks = iter((lambda: None, lambda: storage.put("x", b"")))
    monkeypatch.setattr(shared_folder.time, "sleep", lambda _: next(looks)())
    assert sees(str(tmp_path), "x")
    monkeypatch.setattr(shared_folder, "APPEAR_SECONDS", 0.0)
    assert not sees(str(tmp_path), "y")
