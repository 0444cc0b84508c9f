"""Validation rules that the API server checks by itself, in CEL: what an LLM360Run shows without its preset.

They say what `rules` says, of the fields that the object states; what only resolution can see, the operator finds.
The API server refuses a rule whose cost it cannot bound, so every field that a rule reads has a largest size. Numbers
are not repeated in sentences for the same reason; the API server shows the value itself.
"""

from __future__ import annotations

from typing import NamedTuple

from llm360.spec.identity import IDENTITY
from llm360.spec.resolution import MAX_NAME

_BEGUN = "has(oldSelf.status) && has(oldSelf.status.configDigest)"


class CelRule(NamedTuple):
    """A rule of one schema node.

    Attributes:
        path: Of the node that `self` is, empty for the whole object.
        reads: Optional fields of `self` that the rule needs; where one is not stated it holds.
        rule: Is true of a valid object.
        message: What is wrong and what to do.
    """

    path: str
    reads: tuple[str, ...]
    rule: str
    message: str

    def schema(self) -> dict[str, str]:
        """An entry of `x-kubernetes-validations`."""
        guard = " && ".join(f"has(self.{field})" for field in self.reads)
        rule = f"!({guard}) || {self.rule}" if guard else self.rule
        return {"rule": rule, "message": self.message}


def _identity_rule(path: str) -> CelRule:
    new, old = (f"({_present(f'{root}.spec', path)})" for root in ("self", "oldSelf"))
    same = f"{new} == {old} && (!{new} || self.spec.{path} == oldSelf.spec.{path})"
    return CelRule(
        "",
        (),
        f"!({_BEGUN}) || ({same})",
        f"spec.{path} belongs to the run's identity and cannot change once the run has begun; put the old value back,"
        " or start another run under another name and storage.uri",
    )


def _present(root: str, path: str) -> str:
    """Whether a field and all that it lies in are stated. CEL's optional values would say it shorter, at no bound."""
    parts = path.split(".")
    return " && ".join(f"has({root}.{'.'.join(parts[: end + 1])})" for end in range(len(parts)))


CEL_RULES: tuple[CelRule, ...] = (
    *map(_identity_rule, IDENTITY),
    CelRule(
        "",
        (),
        f"self.metadata.name.matches('^[a-z]([-a-z0-9]{{0,{MAX_NAME - 2}}}[a-z0-9])?$')",
        f"metadata.name: must be at most {MAX_NAME} lower-case letters, digits and dashes, beginning with a letter and"
        " ending with a letter or digit: the names of the run's pods and services begin with it",
    ),
    CelRule(
        "",
        (),
        "has(self.spec.storage) && has(self.spec.storage.uri)",
        "spec.storage.uri: needs a value: it says where the release goes; write s3://bucket/prefix",
    ),
    CelRule(
        "spec.storage",
        ("uri",),
        "self.uri.startsWith('s3://') || self.uri.startsWith('file:///')",
        "spec.storage.uri: is no address that all pods of a run can write to; write s3://bucket/prefix (with"
        " storage.endpoint for other servers than Amazon's)",
    ),
    CelRule(
        "spec.model",
        ("hiddenSize", "numHeads"),
        "self.hiddenSize % self.numHeads == 0",
        "spec.model.hiddenSize: is no multiple of model.numHeads: heads have equal parts; change one of them",
    ),
    CelRule(
        "spec.model",
        ("numHeads", "numKeyValueHeads"),
        "self.numHeads % self.numKeyValueHeads == 0",
        "spec.model.numKeyValueHeads: does not divide model.numHeads: each key and value head serves equally many; take"
        " a divisor",
    ),
    CelRule(
        "spec.model",
        ("tiedEmbeddings", "outputBias"),
        "!(self.tiedEmbeddings && self.outputBias)",
        "spec.model.outputBias: is true with model.tiedEmbeddings: a tied head has no bias; set one of them to false",
    ),
    *(
        CelRule(
            f"spec.model.initialization.{name}",
            ("kind", "cut"),
            "self.kind != 'normal'",
            f"spec.model.initialization.{name}.cut: has no meaning with kind normal; remove it or take kind"
            " truncated_normal",
        )
        for name in ("embedding", "hidden", "output")
    ),
    *(
        CelRule(
            path,
            ("peakLearningRate", "endLearningRate"),
            "self.endLearningRate <= self.peakLearningRate",
            f"{path}.endLearningRate: is above peakLearningRate; lower it",
        )
        for path in ("spec.training.schedule", "spec.data.stages[].schedule")
    ),
    CelRule(
        "spec.training.schedule",
        ("kind", "warmupSteps", "decaySteps"),
        "self.kind == 'constant' || self.warmupSteps < self.decaySteps",
        "spec.training.schedule.warmupSteps: is not below decaySteps, which count the warm-up too, so nothing is left"
        " to decay; shorten the warm-up",
    ),
    CelRule(
        "spec.parallelism",
        ("shard", "replicas"),
        "self.shard != 'full'",
        "spec.parallelism.replicas: has no meaning with shard full; remove it, or set parallelism.shard to hybrid",
    ),
    CelRule(
        "spec.cluster.workers",
        ("device", "gpus"),
        "(self.device == 'cuda') == (self.gpus > 0)",
        "spec.cluster.workers.gpus: device cuda needs at least 1, device cpu needs 0; change one of them",
    ),
    CelRule(
        "spec",
        ("model", "training"),
        "!has(self.model.maxPositionEmbeddings) || !has(self.training.sequenceLength) ||"
        " self.training.sequenceLength <= self.model.maxPositionEmbeddings",
        "spec.training.sequenceLength: is more than model.maxPositionEmbeddings; shorten the sequences or raise the"
        " positions",
    ),
    CelRule(
        "spec",
        ("model", "tokenizer"),
        "!has(self.model.vocabSize) || !has(self.tokenizer.eosId) || self.tokenizer.eosId < self.model.vocabSize",
        "spec.tokenizer.eosId: is no id of a vocabulary of model.vocabSize ids; they go to one less",
    ),
)
