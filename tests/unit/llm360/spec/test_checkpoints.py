"""After which steps a checkpoint is published."""

from llm360.spec.checkpoints import CheckpointSchedule


def published(schedule, last_step, chunk_steps=10):
    """The steps of a run of one stage after which a checkpoint is published."""
    return [
        step
        for step in range(last_step + 1)
        if schedule.publishes(
            step,
            stage_step=step,
            every_steps=schedule.every_steps,
            is_chunk_end=step % chunk_steps == 0,
            is_stage_end=step == last_step,
        )
    ]


def schedule(**values):
    """A schedule, by default one that publishes nothing but the end."""
    plain = {"initial": False, "everyChunk": False, "steps": ()}
    return CheckpointSchedule.model_validate(plain | values)


def test_last_step_is_always_published():
    assert published(schedule(), 25) == [25]


def test_amber_follows_the_chunks():
    assert published(schedule(initial=True, everyChunk=True), 30) == [0, 10, 20, 30]


def test_pythia_is_dense_at_first():
    pythia = schedule(initial=True, everySteps=1000, steps=tuple(2**power for power in range(10)))
    steps = published(pythia, 143_000)
    assert steps[:13] == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 2000]
    assert len(steps) == 154


def test_crystal_counts_in_the_stage():
    def crystal(step, stage_step, every_steps):
        return schedule().publishes(
            step, stage_step=stage_step, every_steps=every_steps, is_chunk_end=False, is_stage_end=False
        )

    assert crystal(79_721 + 1500, stage_step=1500, every_steps=1500)
    assert not crystal(81_000, stage_step=1279, every_steps=1500)
    assert crystal(294_108 + 1000, stage_step=1000, every_steps=1000)
    assert not crystal(294_108 + 1500, stage_step=1500, every_steps=1000)
