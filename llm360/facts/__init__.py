"""What follows from a specification by arithmetic alone: parameters, steps, tokens, checkpoints, the state at a step,
the memory and time of one (`plan`).

Nothing here is stated a second time: rows come from `llm360.data.order`, learning rates from `spec.training.Schedule`,
checkpoints from `spec.checkpoints.CheckpointSchedule`. Presets and their page are made of these facts.
"""

from llm360.facts.parameters import num_parameters, parameter_counts
from llm360.facts.preset import PresetFacts, preset_facts
from llm360.facts.published import Published
from llm360.facts.stages import StageFacts, StepFacts

__all__ = [
    "PresetFacts",
    "Published",
    "StageFacts",
    "StepFacts",
    "num_parameters",
    "parameter_counts",
    "preset_facts",
]
