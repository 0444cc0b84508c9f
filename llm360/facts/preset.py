"""All facts of a preset: its specification, its original, and what follows from both."""

from __future__ import annotations

from dataclasses import dataclass

from llm360.errors import InputError, nearest
from llm360.facts.parameters import num_parameters
from llm360.facts.published import Published, published_of
from llm360.facts.stages import StageFacts, StepFacts, stage_facts
from llm360.spec import ResolvedRun, load_run, preset_names
from llm360.spec.layers import WHERE_PRESETS_ARE

_ANY_STORE = "file:///release"  # a run's stages name their data's place, which no fact depends on


@dataclass(frozen=True)
class PresetFacts:
    """A preset with what follows from it.

    Attributes:
        name: The preset's.
        run: The run that it alone describes.
        published: What is known of its original.
        stages: Its stages; None where steps follow from data that a recipe has yet to make.
    """

    name: str
    run: ResolvedRun
    published: Published
    stages: tuple[StageFacts, ...] | None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return num_parameters(self.run.spec.model)

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps of all stages."""
        return None if self.stages is None else self.stages[-1].last_step

    @property
    def total_tokens(self) -> int | None:
        """Predictions of all stages."""
        return None if self.stages is None else sum(stage.tokens for stage in self.stages)

    @property
    def checkpoints(self) -> int | None:
        """Published checkpoints of all stages."""
        return None if self.stages is None else sum(stage.checkpoints for stage in self.stages)

    def at(self, step: int, stage: str | None = None) -> StepFacts:
        """What holds after `step` finished steps of a stage, 0 to its last inclusive.

        Args:
            step: Finished optimizer steps.
            stage: Name of a stage or its number from 1; None counts the run's steps, a boundary being the end of the
                stage before.

        Raises:
            InputError: there is no such stage or step, or the steps are not known before the data is.
        """
        if self.stages is None:
            raise InputError(
                f"the steps of {self.name} follow from data that its recipe makes when the run begins; until then"
                " nothing is known of a step"
            )
        if stage is None:
            last = self.stages[-1].last_step
            _check_step(step, last, self.name)
            found = next(item for item in self.stages if step <= item.last_step)
            return found.at(step - found.first_step)
        found = self._stage(stage)
        _check_step(step, found.num_steps, f"stage '{found.name}' of {self.name}")
        return found.at(step)

    def _stage(self, word: str) -> StageFacts:
        assert self.stages is not None
        by_word = {item.name: item for item in self.stages} | {str(n): item for n, item in enumerate(self.stages, 1)}
        if word not in by_word:
            names = ", ".join(f"{number} ({item.name})" for number, item in enumerate(self.stages, 1))
            raise InputError(f"--stage {word}: {self.name} has no such stage; its stages are {names}")
        return by_word[word]


def preset_facts(name: str) -> PresetFacts:
    """The facts of a preset.

    Raises:
        InputError: there is no such preset; the nearest is named.
    """
    names = preset_names()
    if name not in names:
        raise InputError(f"there is no preset '{name}'{nearest(name, names)}; {WHERE_PRESETS_ARE}")
    run = load_run(name, store=_ANY_STORE)
    published = published_of(name)
    return PresetFacts(name, run, published, stage_facts(run, published))


def _check_step(step: int, last: int, what: str) -> None:
    if not 0 <= step <= last:
        raise InputError(f"--at {step}: {what} has the steps 0 to {last:,}; give one of them")
