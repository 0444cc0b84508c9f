from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from llm360.errors import InputError
from llm360_trainer.checkpoint.shards import Rows, holders


@pytest.fixture
def six_ranks() -> Iterator[None]:
    """A process group whose other five ranks are imagined."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=6)
    yield
    dist.destroy_process_group()


def make_tensor(rows: int, mesh_shape: tuple[int, ...], *placements: Placement) -> DTensor:
    mesh = init_device_mesh("cpu", mesh_shape)
    local = torch.chunk(torch.empty(rows, 3), mesh.shape[-1])[0]
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=torch.Size((rows, 3)), stride=(3, 1))


@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 11, 12, 13, 100])
def test_rows_are_chunked_as_torch_does(six_ranks: None, rows: int) -> None:
    found = holders("weight", make_tensor(rows, (6,), Shard(0)), reader=4)
    sizes = [len(chunk) for chunk in torch.chunk(torch.empty(rows), 6)]
    assert [part.stop - part.start for part in found] == sizes + [0] * (6 - len(sizes))
    assert [part.rank for part in found] == list(range(6))
    assert [part.start for part in found] == [0, *(part.stop for part in found[:-1])]
    assert found[-1].stop == rows


@pytest.mark.parametrize(("reader", "replica"), [(0, [0, 1, 2]), (2, [0, 1, 2]), (3, [3, 4, 5]), (5, [3, 4, 5])])
def test_a_reader_takes_rows_from_its_own_replica(six_ranks: None, reader: int, replica: list[int]) -> None:
    found = holders("weight", make_tensor(6, (2, 3), Replicate(), Shard(0)), reader)
    assert found == tuple(Rows(rank, 2 * i, 2 * i + 2) for i, rank in enumerate(replica))


def test_the_sharding_axis_may_come_first(six_ranks: None) -> None:
    found = holders("weight", make_tensor(4, (2, 3), Shard(0), Replicate()), reader=4)
    assert [part.rank for part in found] == [1, 4]


def test_what_is_replicated_everywhere_comes_from_the_reader_itself(six_ranks: None) -> None:
    assert holders("weight", make_tensor(4, (6,), Replicate()), reader=3) == (Rows(3, 0, 4),)


def test_a_plain_tensor_comes_from_the_reader_itself() -> None:
    assert holders("weight", torch.empty(4, 3), reader=2) == (Rows(2, 0, 4),)
    assert holders("scale", torch.tensor(1.0), reader=0) == (Rows(0, 0, 1),)


@pytest.mark.parametrize("placements", [(Replicate(), Shard(1)), (Shard(0), Shard(0))])
def test_another_sharding_is_refused_by_name(six_ranks: None, placements: tuple[Placement, ...]) -> None:
    with pytest.raises(InputError, match=r"'layers\.0\.weight' is placed as"):
        holders("layers.0.weight", make_tensor(6, (2, 3), *placements), reader=0)
