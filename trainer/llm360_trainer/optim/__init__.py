"""AdamW; the learning rate that it runs with is the specification's (`llm360.spec.training.Schedule`)."""

from llm360_trainer.optim.adamw import OptimizerSettings, build_optimizer, set_finished_steps, set_learning_rate

__all__ = [
    "OptimizerSettings",
    "build_optimizer",
    "set_finished_steps",
    "set_learning_rate",
]
