"""What a rank reports of its own steps, and how often."""

import torch

from llm360_trainer.train.plan import WorkerReport
from llm360_trainer.train.watch import REPORT_SECONDS, Watch


def test_own_time_is_that_between_steps_and_reports_are_rare():
    now, sent = [100.0], []
    watch = Watch(3, torch.device("cpu"), sent.append, clock=lambda: now[0])

    def step(own: float, together: float) -> None:
        now[0] += own
        watch.step_begins(data_wait_seconds=own / 2)
        now[0] += together
        watch.step_ended()

    now[0] += 50  # loading a checkpoint
    watch.begin()
    step(0.5, 1.0)
    first = sent[0]
    assert (first.rank, first.step_seconds, first.own_seconds, first.data_wait_seconds) == (3, 1.5, 0.5, 0.25)
    assert isinstance(first, WorkerReport)
    assert first.memory_bytes > 2**20
    for _ in range(4):
        step(0.25, 1.0)
    assert len(sent) == 2, f"one report in {REPORT_SECONDS} s"
    assert (sent[1].step_seconds, sent[1].own_seconds) == (1.25, 1.0)
