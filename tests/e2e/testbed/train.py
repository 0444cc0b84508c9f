"""Ten steps of a small model under Ray Train with FSDP2 over gloo; fails unless two workers bring the loss down."""

import ray.train
import torch
import torch.distributed as dist
from ray.train import ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from torch.distributed.fsdp import fully_shard

STEPS = 10


def loop():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.05)
    rows = torch.randn(64, 16)
    losses = []
    for step in range(STEPS):
        loss = (model(rows).squeeze() - rows.sum(1)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        ray.train.report({"step": step, "loss": losses[-1]})
    assert dist.get_world_size() == 2
    assert losses[-1] < losses[0] / 4, losses


if __name__ == "__main__":
    ray.init(address="auto")
    scaling = ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1, "pool": 1})
    TorchTrainer(loop, scaling_config=scaling, torch_config=TorchConfig(backend="gloo")).fit()
