"""What makes a run what it is, and what may change."""

import pytest

from llm360.spec import identity_changes, is_identity, load_run, resolve


@pytest.fixture
def tiny():
    return load_run("amber-tiny", store="/runs/tiny")


@pytest.mark.parametrize(
    "override",
    [
        "preset=null",
        "model.numLayers=2",
        "tokenizer.eosId=3",
        "data.chunks=4",
        "data.stages[0].steps=40",
        "training.seed=1",
        "training.documentMask=true",
        "training.schedule.warmupSteps=1",
        "checkpoints.dtype=bfloat16",
        "checkpoints.schedule.everySteps=10",
        "storage.uri=/runs/other",
    ],
)
def test_identity_changes_with(tiny, override):
    changed = resolve(tiny.document(), [override], local=True)
    assert changed.identity_digest() != tiny.identity_digest()
    assert changed.operations() == tiny.operations()
    assert len(identity_changes(tiny.identity(), changed.identity())) == 1


@pytest.mark.parametrize(
    "override",
    [
        "cluster.workers.replicas=4",
        "parallelism.microBatch=4",
        "parallelism.attention=sdpa",
        "parallelism.prefetch=1",
        "checkpoints.resumeEvery=5",
        "checkpoints.keepState=2",
        "recovery.nonFinite=skip",
        "evaluation.everyCheckpoints=2",
        "storage.region=eu-west-1",
        "storage.secretRef.name=keys",
        "release.license=MIT",
        "suspend=true",
        "metadata.name=other",
    ],
)
def test_identity_stays_with(tiny, override):
    changed = load_run("amber-tiny", [override], store="/runs/tiny")
    assert changed.identity() == tiny.identity()
    assert changed != tiny


def test_identity_and_operations_are_all_of_the_spec_and_share_nothing(tiny):
    def leaves(value, path=()):
        if isinstance(value, dict):
            return {leaf for key, member in value.items() for leaf in leaves(member, (*path, key))}
        return {path}

    identity, operations = leaves(tiny.identity()), leaves(tiny.operations())
    assert identity | operations == leaves(tiny.document()["spec"])
    assert not identity & operations
    assert all(is_identity(".".join(path)) for path in identity)
    assert not any(is_identity(".".join(path)) for path in operations)


def test_changes_name_the_field_and_both_values(tiny):
    overrides = ["training.seed=3", "training.steps=90", "checkpoints.schedule.steps=[1, 2]", "data.stages[0].name=a"]
    other = load_run("amber-tiny", overrides, store="/runs/tiny")
    assert identity_changes(tiny.identity(), other.identity()) == [
        'spec.data.stages[0].name: was "stage1", is now "a"',
        "spec.training.seed: was 11111, is now 3",
        "spec.checkpoints.schedule.steps: was [], is now [1,2]",
        "spec.training.steps: was unset, is now 90",
    ]
    assert identity_changes(tiny.identity(), tiny.identity()) == []
