"""The page `docs/presets.md`: every preset's numbers beside the published ones, and where they come from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llm360.facts.preset import PresetFacts, preset_facts
from llm360.spec import preset_names
from llm360.spec.layers import preset_text

_INTRODUCTION = """\
# Presets

<!-- Written by `llm360 presets reference`; do not edit. -->

A preset is a complete run: `llm360 run NAME --store ADDRESS`, or `spec: {preset: NAME}`. `llm360 presets show NAME`
prints each with the source of every number, `--at STEP` what holds after any step, `llm360 presets diff ONE OTHER`
where two differ. Where an original's sources disagree a preset takes what the training code did and says so beside
the number.

The presets whose names end in `-tiny` are small runs on text that every Python carries. All others are the published
models.
"""


def presets_page() -> str:
    """The page in Markdown."""
    facts = [preset_facts(name) for name in preset_names()]
    published = [preset for preset in facts if not preset.name.endswith("-tiny")]
    parts = [
        _INTRODUCTION,
        "## What follows from each\n",
        *_totals(facts),
        "\n## Learning rate and batch, by stage\n",
        *_stages(facts),
        "\n## Against the published numbers\n",
        "“=” means that the preset gives exactly this number.\n",
        *_against_published(published),
    ]
    return "\n".join(parts) + "\n"


def _totals(facts: list[PresetFacts]) -> Iterator[str]:
    yield "| preset | parameters | steps | tokens | checkpoints |\n|---|--:|--:|--:|--:|"
    for preset in facts:
        numbers = (preset.parameters, preset.total_steps, preset.total_tokens, preset.checkpoints)
        yield f"| `{preset.name}` | {' | '.join(map(_number, numbers))} |"


def _stages(facts: list[PresetFacts]) -> Iterator[str]:
    yield "| preset | stage | steps | batch | schedule | warm-up | peak | at the end | checkpoints |"
    yield "|---|---|--:|--:|---|--:|--:|--:|--:|"
    for preset in facts:
        for stage in preset.stages or ():
            schedule = stage.schedule
            yield (
                f"| `{preset.name}` | {stage.name} | {stage.num_steps:,} | {stage.batch_size:,} | {schedule.kind}"
                f" | {schedule.warmup_steps:,} | {schedule.peak_learning_rate:g}"
                f" | {stage.at(stage.num_steps).learning_rate:.6g} | {stage.checkpoints:,} |"
            )


def _against_published(facts: list[PresetFacts]) -> Iterator[str]:
    yield "| preset | what | published | preset | source |\n|---|---|--:|--:|---|"
    for preset in facts:
        sources = _sources(preset.name)
        for field, what in _COMPARED.items():
            wanted, found = getattr(preset.published, field), getattr(preset, field)
            if wanted is not None:
                ours = "=" if found == wanted else _number(found)
                yield f"| `{preset.name}` | {what} | {_number(wanted)} | {ours} | {sources[field]} |"


_COMPARED = {
    "parameters": "parameters",
    "total_steps": "steps",
    "total_tokens": "tokens",
    "checkpoints": "checkpoints",
}


def _sources(preset: str) -> dict[str, str]:
    """The comment behind each published number in the preset's files; a later file's wins."""
    found: dict[str, str] = {}
    for section in re.findall(r"^published:.*\n((?:  .*\n)+)", preset_text(preset), flags=re.MULTILINE):
        for key, comment in re.findall(r"^  (\w+): .*?# (.*)$", section, flags=re.MULTILINE):
            found[re.sub(r"([A-Z])", lambda match: f"_{match[1].lower()}", key)] = comment.replace("|", "\\|")
    return found


def _number(value: int | None) -> str:
    return "from its data" if value is None else f"{value:,}"
