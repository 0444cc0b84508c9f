"""Cross-field rules: what no single field shows. Each is one function whose name says what must hold.

A rule names the fields that it reads (it is left out where one of them is wrong by itself, so that no fault is
told twice) and yields a path and a sentence for each thing that is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from llm360.spec.problems import Problem
from llm360.spec.run import ResolvedSpec
from llm360.spec.training import Schedule

Check = Callable[[ResolvedSpec], Iterator[tuple[str, str]]]


class Rule(NamedTuple):
    """A check and the paths of the fields that it reads."""

    fields: tuple[str, ...]
    check: Check

    def reads_any(self, paths: Sequence[str]) -> bool:
        """Whether the rule reads one of the paths, something below one, or something above one."""
        return any(_overlap(field, path) for field in self.fields for path in paths)


RULES: list[Rule] = []


def rule(*fields: str) -> Callable[[Check], Check]:
    """Register a rule with the paths of the fields that it reads."""

    def register(check: Check) -> Check:
        RULES.append(Rule(fields, check))
        return check

    return register


def broken_rules(spec: ResolvedSpec, wrong: Sequence[str] = ()) -> list[Problem]:
    """What the rules find, leaving out those that read a field already known to be wrong.

    Args:
        spec: The complete specification.
        wrong: Paths without indices (`data.stages.name`).
    """
    return [
        Problem(path, sentence) for rule in RULES if not rule.reads_any(wrong) for path, sentence in rule.check(spec)
    ]


def _divisors(number: int) -> str:
    return ", ".join(str(divisor) for divisor in range(1, number + 1) if number % divisor == 0)


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}.") or other.startswith(f"{one}.")


@rule("model.hiddenSize", "model.numHeads")
def heads_divide_the_width(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """The heads share the width equally."""
    hidden_size, num_heads = spec.model.hidden_size, spec.model.num_heads
    if hidden_size % num_heads:
        lower = hidden_size - hidden_size % num_heads
        yield (
            "model.hiddenSize",
            f"{hidden_size} is no multiple of model.numHeads ({num_heads}): heads have equal parts;"
            f" take {lower or num_heads} or {lower + num_heads}, or other heads",
        )


@rule("model.numHeads", "model.numKeyValueHeads")
def key_value_heads_divide_heads(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Each key and value head serves the same number of heads."""
    num_heads, num_key_value_heads = spec.model.num_heads, spec.model.num_key_value_heads
    if num_heads % num_key_value_heads:
        yield (
            "model.numKeyValueHeads",
            f"{num_key_value_heads} does not divide model.numHeads ({num_heads}): each key and value head serves"
            f" equally many; take one of {_divisors(num_heads)}",
        )


@rule("model.hiddenSize", "model.numHeads", "model.headDim", "model.rotary.fraction")
def rotated_dimensions_pair_up(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """The rotated share of a head, headDim × rotary.fraction is an even whole number."""
    rotated = spec.model.head_dim * spec.model.rotary.fraction
    if rotated != int(rotated) or int(rotated) % 2 or rotated < 2:
        yield (
            "model.rotary.fraction",
            f"{spec.model.rotary.fraction:g} of model.headDim ({spec.model.head_dim}) is {rotated:g} dimensions: they"
            " turn in pairs, so an even number of at least 2 is needed; change the fraction or headDim",
        )


@rule("model.maxPositionEmbeddings", "training.sequenceLength")
def sequences_fit_the_positions(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """A sequence is no longer than the positions that the model is made for."""
    if spec.training.sequence_length > spec.model.max_position_embeddings:
        yield (
            "training.sequenceLength",
            f"{spec.training.sequence_length} is more than model.maxPositionEmbeddings"
            f" ({spec.model.max_position_embeddings}); shorten the sequences or raise the positions",
        )


@rule("model.initialization")
def truncated_normals_have_a_cut(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """A cut is there with truncated_normal and only there."""
    for name in ("embedding", "hidden", "output"):
        initializer = getattr(spec.model.initialization, name)
        path = f"model.initialization.{name}.cut"
        if initializer.kind == "truncated_normal" and initializer.cut is None:
            yield path, f"needs a value with kind truncated_normal, for example twice std: {2 * initializer.std:g}"
        if initializer.kind == "normal" and initializer.cut is not None:
            yield path, f"{initializer.cut:g} has no meaning with kind normal; remove it or take kind truncated_normal"


@rule("model.tiedEmbeddings", "model.outputBias")
def tied_heads_have_no_bias(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """A head that is the embedding has no bias of its own."""
    if spec.model.tied_embeddings and spec.model.output_bias:
        yield "model.outputBias", "is true with model.tiedEmbeddings: a tied head has no bias; set one of them to false"


@rule("tokenizer.eosId", "model.vocabSize")
def end_of_document_is_in_the_vocabulary(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """The end-of-document token is an id of the vocabulary."""
    eos_id, vocab_size = spec.tokenizer.eos_id, spec.model.vocab_size
    if eos_id is not None and eos_id >= vocab_size:
        yield (
            "tokenizer.eosId",
            f"{eos_id} is no id of a vocabulary of {vocab_size} (model.vocabSize); ids go to {vocab_size - 1}",
        )


@rule("data.stages")
def stage_names_differ(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Each stage has its own name."""
    seen: dict[str, int] = {}
    for index, stage in enumerate(spec.data.stages):
        first = seen.setdefault(stage.name, index)
        if first != index:
            yield (
                f"data.stages[{index}].name",
                f"'{stage.name}' is the name of data.stages[{first}] too; rename one",
            )


@rule("data.recipe", "data.chunks", "data.heldOut", "data.stages")
def what_a_recipe_makes_is_said_where_there_is_one(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Chunks, a mix, fill-in-the-middle and documents held out say nothing where no recipe makes the data."""
    data = spec.data
    if data.chunks is not None and data.recipe is None and all(stage.recipe is None for stage in data.stages):
        yield (
            "data.chunks",
            f"{data.chunks} has no meaning without data.recipe: prepared data has its chunks already; remove it",
        )
    if data.held_out is not None and data.recipe is None and all(stage.recipe is None for stage in data.stages):
        yield (
            "data.heldOut",
            "has no meaning without data.recipe: prepared data holds out what llm360 data prepare --held-out said;"
            " remove it",
        )
    for index, stage in enumerate(data.stages):
        for name in ("chunks", "mix", "fim"):
            if getattr(stage, name) is not None and stage.recipe is None and data.recipe is None:
                yield (
                    f"data.stages[{index}].{name}",
                    f"has no meaning without a recipe: prepared data has its {name} already; remove it",
                )


@rule("data.stages")
def first_stage_has_nothing_to_reset(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """The run's first stage starts with empty moments anyhow; a reset there is a stage too early."""
    if spec.data.stages[0].optimizer_state == "reset":
        yield (
            "data.stages[0].optimizerState",
            "is reset, but the run's first stage begins with empty moments; remove it, or set it at the stage whose"
            " first step is to forget",
        )


@rule("training.schedule", "training.steps", "data.stages")
def warm_up_leaves_steps_to_decay(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """The warm-up is over before the decay's end: decaySteps, else the stage's steps where they are stated."""
    for path, schedule, steps in _schedules(spec):
        if schedule.kind == "constant":
            continue
        end, what = (schedule.decay_steps, "decaySteps") if schedule.decay_steps else (steps, "the stage's steps")
        if end is not None and schedule.warmup_steps >= end:
            yield (
                f"{path}.warmupSteps",
                f"{schedule.warmup_steps} is not below {what} ({end}), which count the warm-up too, so nothing is left"
                " to decay; shorten the warm-up",
            )


@rule("training.schedule", "data.stages")
def learning_rate_ends_at_most_at_its_peak(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """The learning rate neither ends above its peak nor has its floor there."""
    for path, schedule, _ in _schedules(spec):
        if schedule.min_learning_rate is not None and schedule.min_learning_rate > schedule.peak_learning_rate:
            yield (
                f"{path}.minLearningRate",
                f"{schedule.min_learning_rate:g} is above peakLearningRate ({schedule.peak_learning_rate:g}); lower it",
            )
        if schedule.end_learning_rate > schedule.peak_learning_rate:
            yield (
                f"{path}.endLearningRate",
                f"{schedule.end_learning_rate:g} is above peakLearningRate ({schedule.peak_learning_rate:g}); lower it",
            )


def _schedules(spec: ResolvedSpec) -> Iterator[tuple[str, Schedule, int | None]]:
    """Each schedule that is stated, once, with its path and the fewest steps of the stages that use it, if known."""
    shared = [stage.steps or spec.training.steps for stage in spec.data.stages if stage.schedule is None]
    yield (
        "training.schedule",
        spec.training.schedule,
        min((steps for steps in shared if steps is not None), default=None),
    )
    for index, stage in enumerate(spec.data.stages):
        if stage.schedule is not None:
            yield f"data.stages[{index}].schedule", stage.schedule, stage.steps or spec.training.steps


@rule("checkpoints.schedule.steps")
def checkpoint_steps_ascend(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Listed steps ascend."""
    steps = spec.checkpoints.schedule.steps
    for index, (before, step) in enumerate(itertools.pairwise(steps), 1):
        if step <= before:
            yield (
                f"checkpoints.schedule.steps[{index}]",
                f"{step} follows {before}; list each step once, in ascending order",
            )


@rule("evaluation.tasks", "evaluation.analyses")
def tasks_differ(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Each task and each analysis is listed once."""
    names = [task.name for task in spec.evaluation.tasks]
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"evaluation.tasks[{index}].name", f"'{name}' is listed twice; remove one"
    for index, name in enumerate(spec.evaluation.analyses):
        if name in spec.evaluation.analyses[:index]:
            yield f"evaluation.analyses[{index}]", f"'{name}' is listed twice; remove one"


@rule("cluster.workers.device", "cluster.workers.gpus")
def device_and_gpus_agree(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Device cuda has GPUs, cpu has none."""
    workers = spec.cluster.workers
    if workers.device == "cuda" and workers.gpus == 0:
        yield "cluster.workers.gpus", "0 with device cuda; ask for at least 1, or set cluster.workers.device to cpu"
    if workers.device == "cpu" and workers.gpus > 0:
        yield "cluster.workers.gpus", f"{workers.gpus} with device cpu; set it to 0, or cluster.workers.device to cuda"


@rule("training.batchSize", "data.stages", "cluster.workers.replicas", "cluster.workers.gpus", "cluster.workers.device")
def every_rank_has_work(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """A batch has at least one sequence per rank."""
    world_size = spec.cluster.world_size
    sizes = [("training.batchSize", spec.training.batch_size)] + [
        (f"data.stages[{index}].batchSize", stage.batch_size)
        for index, stage in enumerate(spec.data.stages)
        if stage.batch_size is not None
    ]
    for path, batch_size in sizes:
        if batch_size < world_size:
            yield (
                path,
                f"{batch_size} sequences cannot be shared by {world_size} ranks (cluster.workers): each needs at least"
                " one; raise the batch or take fewer workers",
            )


@rule("parallelism.microBatch", "training.batchSize", "data.stages")
def micro_batch_fits_the_batch(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """A micro batch is no larger than the largest batch."""
    largest = max(stage.batch_size or spec.training.batch_size for stage in spec.data.stages)
    if spec.parallelism.micro_batch > largest:
        yield (
            "parallelism.microBatch",
            f"{spec.parallelism.micro_batch} is more than a whole batch ({largest}); lower it",
        )


@rule("parallelism.activationCheckpointing", "parallelism.activationMemory")
def measured_recomputation_has_a_budget(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """A budget is there with measured recomputation and only there."""
    kind, budget = spec.parallelism.activation_checkpointing, spec.parallelism.activation_memory
    if kind == "measured" and budget is None:
        yield (
            "parallelism.activationMemory",
            "needs a value with activationCheckpointing measured: what a rank may keep, for example 20Gi",
        )
    if kind != "measured" and budget is not None:
        yield (
            "parallelism.activationMemory",
            f"{budget} has no meaning with activationCheckpointing {kind}; remove it, or set that to measured",
        )


@rule("parallelism.attention", "training.precision", "cluster.workers.device")
def attention_runs_on_the_device(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Kernels of GPUs are not asked for on CPUs, nor those of half precision in fp32."""
    kernel = spec.parallelism.attention
    if kernel in ("cudnn", "flash", "varlen", "flex") and spec.cluster.workers.device == "cpu":
        yield "parallelism.attention", f"{kernel} needs cluster.workers.device cuda; set it to auto or sdpa for CPUs"
    elif kernel in ("cudnn", "flash") and spec.training.precision == "fp32":
        yield "parallelism.attention", f"{kernel} needs training.precision bf16; set it to auto, sdpa or flex for fp32"


@rule("training.fp8", "training.precision", "cluster.workers.device")
def fp8_lies_on_bf16_and_gpus(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """float8 products are part of a bf16 step on GPUs."""
    if spec.training.fp8 is None:
        return
    if spec.training.precision != "bf16":
        yield "training.fp8", f"needs training.precision bf16, found {spec.training.precision}; change it or remove fp8"
    if spec.cluster.workers.device == "cpu":
        yield "training.fp8", "needs cluster.workers.device cuda: CPUs have no float8 units; remove it"


@rule("parallelism.shard", "parallelism.replicas", "cluster.workers.replicas", "cluster.workers.gpus")
def replicas_divide_the_ranks(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Hybrid sharding has replicas that divide the ranks; full sharding has none."""
    replicas, world_size = spec.parallelism.replicas, spec.cluster.world_size
    if spec.parallelism.shard == "full" and replicas is not None:
        yield (
            "parallelism.replicas",
            f"{replicas} has no meaning with shard full; remove it, or set parallelism.shard to hybrid",
        )
    if spec.parallelism.shard == "hybrid" and replicas is None:
        yield "parallelism.replicas", "needs a value with shard hybrid: how many copies of the sharded model there are"
    if spec.parallelism.shard == "hybrid" and replicas is not None and world_size % replicas:
        yield (
            "parallelism.replicas",
            f"{replicas} does not divide the {world_size} ranks of cluster.workers; take a divisor above"
            " 1, or set parallelism.shard to full",
        )


@rule("storage.uri", "data", "tokenizer.uri", "model.weights", "evaluation.mirror")
def addresses_are_absolute(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """Each address has a scheme: a pod has no folder that a path could start from."""
    addresses = [("storage.uri", spec.storage.uri), ("data.uri", spec.data.uri), ("tokenizer.uri", spec.tokenizer.uri)]
    addresses.append(("evaluation.mirror", spec.evaluation.mirror))
    if spec.model.weights is not None:
        addresses.append(("model.weights.uri", spec.model.weights.uri))
    addresses += [(f"data.stages[{index}].uri", stage.uri) for index, stage in enumerate(spec.data.stages)]
    for path, uri in addresses:
        if uri is not None and "://" not in uri:
            yield path, f"'{uri}' is a path and a pod has its own folders; write s3://bucket/prefix or file:///folder"


@rule("storage.uri")
def release_goes_where_it_can_be_written(spec: ResolvedSpec) -> Iterator[tuple[str, str]]:
    """A release is not written to http(s), which is read-only."""
    uri = spec.storage.uri or ""
    if uri.startswith(("http://", "https://")):
        yield (
            "storage.uri",
            f"'{uri}' can only be read; write s3://bucket/prefix (with storage.endpoint) or file:///folder",
        )
