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

_DISAGREEMENTS = """
## Where sources disagree

| preset | one source says | the training code did, and the preset does |
|---|---|---|
| `pythia-*` | the yml: a cosine that ends at `min_lr` | a cosine to 0 over 143,000 steps after the \
warm-up, stopped at `min_lr`: GPT-NeoX until its pull request 1008, which names Pythia |
| `pythia-*` | the published `config.json`: the exact GELU | the approximation by tanh of the \
fused kernel (`bias-gelu-fusion`) |
| `pythia-1b` | README: learning rate 3.0e-4 | the yml's 2.5e-4 |
| `pythia-6.9b`, `-12b` | the other sizes' yml: small_init, wang_init | normal 0.02 and scaled normal, the defaults |
| `crystalcoder-7b` | an early card: stage 3 with 100 + 10 billion tokens and 176 steps of warm-up | 27,728 steps of \
2,112 sequences, 119.93 billion tokens, warm-up 276 |
| `crystalcoder-7b` | “143 checkpoints” | 54 + 143 + 28; 143 are stage 2's |
| `crystalcoder-7b` | a comment in params.yaml: 6,583,754,752 parameters | 6,575,278,720, as its weights have |
| `k2-65b` | chunks 0 to 359 | the order of main.py: three stretches first, 160 and 186 last |
| `k2-65b` | rows of 2,048 tokens | 2,047 predictions in each, which is what `tokens` counts |
| `amber-7b` | “1.3T tokens” | 1,258,448,486,400 |

## What is known to differ

- All Pythia models but `1b` were trained in fp16 with a loss scale, which is not offered here; the presets say bf16.
- Amber drew an order of a chunk's rows when it began the chunk, from a seed set anew at every start; when it was
  started is not published. Here rows are read in the order in which they were prepared.
- CrystalCoder divided a batch's loss by all its positions, those masked out by fill-in-the-middle among them; here it
  is divided by those that count.
- Tensor and pipeline parallelism, CS-2 machines and ZeRO are replaced by FSDP2, which changes the order of sums."""


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
        _DISAGREEMENTS,
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
