import pytest

from llm360_trainer.parallel import make_mesh


def test_full_sharding_has_one_axis(mesh):
    assert mesh.mesh_dim_names == ("shard",)
    assert mesh.size() == 1


def test_hybrid_sharding_has_two(mesh):
    hybrid = make_mesh(1, shard="hybrid", replicas=1)
    assert hybrid.mesh_dim_names == ("replicate", "shard")


@pytest.mark.parametrize("replicas", [None, 0, 3])
def test_hybrid_needs_a_divisor(replicas):
    with pytest.raises(ValueError, match="a number of replicas that divides 4 processes"):
        make_mesh(4, shard="hybrid", replicas=replicas)


def test_full_takes_no_replicas():
    with pytest.raises(ValueError, match="choose hybrid or leave replicas out"):
        make_mesh(4, replicas=2)
