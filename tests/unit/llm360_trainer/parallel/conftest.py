import pytest
import torch.distributed as dist

from llm360_trainer.model import DecoderConfig
from llm360_trainer.parallel import make_mesh


@pytest.fixture
def mesh(tmp_path):
    """A mesh of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield make_mesh(1)
    dist.destroy_process_group()


@pytest.fixture
def config():
    return DecoderConfig(
        vocab_size=61, hidden_size=32, intermediate_size=44, num_layers=2, num_heads=4, num_kv_heads=4, head_dim=8
    )
