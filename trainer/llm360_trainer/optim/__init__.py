"""AdamW and the learning rate it runs with."""

from llm360_trainer.optim.adamw import OptimizerSettings, build_optimizer, set_finished_steps, set_learning_rate
from llm360_trainer.optim.schedule import Schedule, learning_rate

__all__ = [
    "OptimizerSettings",
    "Schedule",
    "build_optimizer",
    "learning_rate",
    "set_finished_steps",
    "set_learning_rate",
]
