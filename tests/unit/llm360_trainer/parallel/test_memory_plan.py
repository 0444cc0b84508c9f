"""The planner's memory against what FSDPMemTracker counts of the trainer's own model, on tensors without data."""

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.testing._internal.distributed.fake_pg import FakeStore

from llm360.facts.memory import StepShape, step_memory
from llm360.spec import load_run
from llm360_trainer.model import Decoder
from llm360_trainer.optim import OptimizerSettings, build_optimizer
from llm360_trainer.parallel import ParallelSettings, make_mesh, parallelize
from llm360_trainer.train.settings import decoder_config

DTYPES = {2: torch.bfloat16, 4: torch.float32}


class LossDecoder(Decoder):
    """The tracker follows `forward` alone."""

    forward = Decoder.loss


@pytest.fixture
def ranks():
    """Makes a group of so many ranks, of which this process is the first and the others answer nothing."""

    def make(world):
        dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())

    yield make
    if dist.is_initialized():
        dist.destroy_process_group()


def tracked_peak(config, step, mesh):
    """Most bytes that a rank holds between the first forward of a step and its last backward."""
    settings = ParallelSettings(
        param_dtype=DTYPES[step.compute_bytes],
        activation_checkpointing=step.checkpointing,
        reshard_after_forward=step.reshard,
        fp8="rowwise" if step.fp8 else None,  # emulated, a product holds no more than its operands' casts did
    )
    with FakeTensorMode():
        with torch.device("meta"):
            model = LossDecoder(config)
        model = parallelize(model, settings, mesh).to_empty(device="cpu")
        tracker = FSDPMemTracker(model, build_optimizer(model, OptimizerSettings()))
        ids = torch.zeros((step.micro_batch, step.sequence_length + 1), dtype=torch.int64)
        with tracker:
            for micro_step in range(step.micro_steps):
                is_last = micro_step == step.micro_steps - 1
                model.set_requires_gradient_sync(is_last or step.reduce_each)
                model.set_is_last_backward(is_last)
                model.set_reshard_after_backward(is_last or step.reshard)
                if micro_step:
                    tracker.reset_mod_stats()
                total, _ = model(ids[:, :-1], ids[:, 1:], torch.zeros(step.micro_batch, step.sequence_length))
                torch.autograd.backward(total)
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


SMALL = ("hiddenSize=256", "intermediateSize=688", "numLayers=4", "numHeads=8", "headDim=32", "numKeyValueHeads=8")
WIDE = ("hiddenSize=4096", "intermediateSize=11008", "numLayers=3", "vocabSize=32000")  # layers as wide as Amber's
LARGE_VOCABULARY = (*SMALL, "vocabSize=30000")
GROUPED = (*SMALL, "numKeyValueHeads=2", "vocabSize=2000")


@pytest.mark.parametrize(
    ("preset", "changes", "step"),
    [
        ("amber-7b", LARGE_VOCABULARY, StepShape(2, 1, 256, 2, 1, "none")),
        ("amber-7b", LARGE_VOCABULARY, StepShape(2, 1, 256, 2, 8, "full")),
        ("amber-7b", GROUPED, StepShape(8, 1, 256, 2, 8, "none")),
        ("amber-7b", GROUPED, StepShape(8, 1, 256, 2, 64, "selective")),
        ("amber-7b", GROUPED, StepShape(8, 2, 256, 2, 8, "full")),
        ("amber-7b", GROUPED, StepShape(8, 2, 256, 2, 2, "full", reduce_each=True)),
        ("amber-7b", GROUPED, StepShape(4, 1, 256, 4, 8, "none")),
        ("amber-7b", GROUPED, StepShape(4, 1, 256, 4, 2, "selective")),
        ("amber-7b", GROUPED, StepShape(4, 1, 256, 2, 8, "none", reshard=False)),
        ("amber-7b", GROUPED, StepShape(4, 3, 256, 2, 8, "none", reshard=False)),
        ("amber-7b", GROUPED, StepShape(4, 2, 256, 2, 1, "full", reshard=False)),
        ("amber-7b", WIDE, StepShape(2, 1, 2048, 2, 8, "selective")),
        ("amber-7b", WIDE, StepShape(2, 2, 2048, 2, 64, "full")),
        ("amber-7b", GROUPED, StepShape(8, 2, 256, 2, 8, "full", fp8=True)),
        ("amber-7b", GROUPED, StepShape(1, 1, 256, 2, 8, "none", fp8=True)),
        ("amber-7b", (*GROUPED, "hiddenSize=1024"), StepShape(1, 1, 256, 2, 64, "selective", fp8=True)),
        ("amber-7b", WIDE, StepShape(2, 1, 2048, 2, 8, "none", fp8=True)),
        ("amber-7b", (*GROUPED, "intermediateSize=700"), StepShape(8, 1, 256, 2, 8, "full", fp8=True)),
        ("pythia-6.9b", (*SMALL, "vocabSize=1000"), StepShape(8, 1, 256, 2, 8, "full", fp8=True)),
        ("crystalcoder-7b", SMALL, StepShape(4, 1, 256, 2, 8, "none")),
        ("crystalcoder-7b", SMALL, StepShape(4, 1, 256, 2, 8, "full")),
        ("pythia-6.9b", (*SMALL, "vocabSize=5000"), StepShape(8, 1, 256, 2, 8, "selective")),
        ("pythia-6.9b", (*SMALL, "vocabSize=5000"), StepShape(8, 2, 256, 4, 8, "full")),
    ],
)
def test_planned_memory_is_within_a_tenth_of_what_is_counted(ranks, preset, changes, step):
    run = load_run(preset, [f"model.{change}" for change in changes], require_store=False)
    ranks(step.shard_ranks)
    counted = tracked_peak(decoder_config(run.spec.model), step, make_mesh(step.shard_ranks))
    on_cpu = StepShape(**{**vars(step), "fused_norm": False})
    assert step_memory(run.spec.model, on_cpu).total == pytest.approx(counted, rel=0.1)
