"""Resolution from a source to a complete run."""

import contextlib
import io
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm360.errors import InputError, SpecError
from llm360.spec import documents, layers, load_run, read_document, resolve, resolved_from_json
from llm360.spec.schema import spec_schema

HEAD = {"apiVersion": "llm360.ai/v1alpha1", "kind": "LLM360Run", "metadata": {"name": "small"}}


def document(**spec):
    """An LLM360Run object in JSON types."""
    return HEAD | {"spec": spec}


def test_user_wins_over_preset_and_preset_over_built_in():
    run = resolve(document(preset="amber-tiny", training={"batchSize": 64}))
    assert run.name == "small"
    assert run.spec.training.batch_size == 64  # user
    assert run.spec.training.optimizer.weight_decay_on == "all"  # preset; built-in is matrices
    assert run.spec.training.optimizer.epsilon == 1e-8  # both
    assert run.spec.recovery.max_attempts == 5  # built-in
    assert run.spec.model.head_dim == 32  # derived


def test_set_wins_over_everything_and_null_takes_away():
    source = document(preset="amber-7b", training={"seed": 1}, checkpoints={"resumeEvery": 5})
    run = resolve(source, ["training.seed=2", "training.schedule.decaySteps=null", "checkpoints.resumeEvery="])
    assert run.spec.training.seed == 2
    assert run.spec.training.schedule.decay_steps is None
    assert run.spec.checkpoints.resume_every is None
    assert source["spec"]["training"] == {"seed": 1}, "the document given stays as it is"


def test_a_presets_name_is_the_runs_without_its_dots():
    run = load_run("pythia-1.4b", store="file:///release")
    assert (run.name, run.spec.preset) == ("pythia-1-4b", "pythia-1.4b")
    assert resolve(run.document()) == run


def test_a_release_says_what_its_makers_state_and_nothing_of_the_preset():
    assert resolve(document(preset="amber-7b")).operations()["release"] == {"authors": []}
    stated = resolve(document(preset="amber-7b", release={"description": "ours"})).operations()["release"]
    assert stated == {"authors": [], "description": "ours"}


def test_preset_may_be_set():
    assert resolve(document(preset="amber-7b"), ["preset=amber-tiny"]).spec.model.hidden_size == 128


def test_null_in_a_document_states_nothing():
    assert resolve(document(preset="amber-tiny", training=None)) == resolve(document(preset="amber-tiny"))


def test_what_the_api_server_adds_is_ignored():
    live = document(preset="amber-tiny") | {"status": {"phase": "Running"}}
    live["metadata"] = {"name": "small", "namespace": "default", "uid": "x", "labels": {"a": "b"}, "managedFields": []}
    assert resolve(live) == resolve(document(preset="amber-tiny"))


def test_resolved_document_is_not_given_its_preset_again(monkeypatch):
    run = resolve(document(preset="amber-7b"), ["training.schedule.decaySteps=null"])
    monkeypatch.setattr(layers, "preset_names", tuple)  # a later version that has dropped the preset
    assert resolve(run.document()) == run
    assert resolved_from_json(run.canonical()) == run


def test_paths_count_from_the_working_directory_only_on_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = document(preset="amber-tiny", storage={"uri": "runs/x"}, data={"uri": "rows"})
    run = resolve(spec, local=True)
    assert run.store == (tmp_path / "runs/x").as_uri()
    assert run.stages[0].uri == (tmp_path / "rows").as_uri()
    with pytest.raises(SpecError, match="is a path and a pod has its own folders"):
        resolve(spec)


def test_a_password_in_an_address_would_be_published_and_is_refused_without_being_shown():
    spec = document(preset="amber-tiny", storage={"uri": "s3://b/x"}, data={"uri": "https://me:secret@host/rows"})
    with pytest.raises(SpecError) as raised:
        resolve(spec)
    (problem,) = raised.value.problems
    assert problem.startswith("spec.data.uri: https://host/rows is written with a name and password")
    assert "secret" not in problem


@pytest.mark.parametrize(
    ("path", "uri", "sentence"),
    [
        ("evaluation.mirror", "https://me:secret@host/m", "https://host/m is written with a name and password"),
        ("evaluation.mirror", "s3://me:secret@b/m", "s3://b/m is written with a name and password"),
        ("storage.endpoint", "http://me:secret@host:9000", "http://host:9000 is written with a name and password"),
        ("storage.endpoint", "HTTP://me:secret@host", "HTTP://host is written with a name and password"),
    ],
)
def test_a_password_in_a_mirror_or_endpoint_is_refused_too(path, uri, sentence):
    section, _, name = path.partition(".")
    spec = document(**layers.merge({"preset": "amber-tiny", "storage": {"uri": "s3://b/x"}}, {section: {name: uri}}))
    for local in (False, True):
        with pytest.raises(SpecError) as raised:
            resolve(spec, local=local)
        (problem,) = raised.value.problems
        assert problem.startswith(f"spec.{path}: {sentence}")
        assert "secret" not in problem


def test_a_mirror_and_an_endpoint_without_password_stay_as_they_are_written():
    spec = document(
        preset="amber-tiny",
        storage={"uri": "s3://b/x", "endpoint": "http://host:9000/"},
        evaluation={"mirror": "https://host/a@b/"},
    )
    found = resolve(spec).spec
    assert (found.storage.endpoint, found.evaluation.mirror) == ("http://host:9000/", "https://host/a@b/")


def test_trial_of_a_few_steps_keeps_the_schedule_of_the_whole():
    run = resolve(document(preset="amber-7b"), ["training.steps=10"])
    assert (run.spec.training.schedule.warmup_steps, run.spec.training.schedule.decay_steps) == (2000, 274320)


def test_equal_addresses_have_equal_identities():
    one, other = (resolve(document(preset="amber-tiny", storage={"uri": uri})) for uri in ("s3://b/x", "s3://b/x/"))
    assert one.identity_digest() == other.identity_digest()


def test_stage_names_of_a_preset_are_extended_by_name(monkeypatch):
    staged = layers.preset_layer("amber-tiny")
    staged["data"]["stages"] = [{"name": "one", "steps": 50}, {"name": "two", "schedule": {"warmupSteps": 5}}]
    monkeypatch.setattr(layers, "preset_layer", lambda _name: staged)
    run = resolve(document(preset="amber-tiny", data={"stages": [{"name": "one"}, {"name": "two", "batchSize": 8}]}))
    one, two = run.spec.data.stages
    assert (one.steps, two.batch_size) == (50, 8)
    assert two.schedule is not None
    assert (two.schedule.warmup_steps, two.schedule.peak_learning_rate) == (5, 2e-3)


@pytest.fixture
def run_file(tmp_path):
    """A file with a specification."""
    path = tmp_path / "run.yaml"
    path.write_text(documents.dump(document(preset="amber-tiny", storage={"uri": "s3://bucket/small"})))
    return path


STAGED = {
    "training": {"batchSize": 8, "steps": 90},
    "parallelism": {"microBatch": 1},
    "data": {"stages": [{"name": "one", "batchSize": 4}, {"name": "two", "batchSize": 2, "steps": 50}]},
}


@pytest.fixture
def staged(monkeypatch):
    """A preset of two stages that both state their batch, and one its steps, over the small Amber's fields."""
    preset = layers.merge(layers.preset_layer("amber-tiny"), STAGED)
    monkeypatch.setattr(layers, "preset_layer", lambda _: preset)
    return document(preset="amber-tiny")


def test_override_that_every_stage_of_the_preset_contradicts_is_refused(staged):
    with pytest.raises(SpecError) as caught:
        resolve(staged, ["training.batchSize=6"])
    assert caught.value.problems == (
        "spec.training.batchSize: 6 would have no effect: the preset's stages state their own, 'one' 4;"
        " set data.stages[0].batchSize and so on instead",
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["training.steps=70"],  # the first stage takes it
        ["training.batchSize=8"],  # what holds already
        ["training.batchSize=6", "data.stages[0].batchSize=6", "data.stages[1].batchSize=6"],
        ["training.batchSize=6", "data.stages[0].batchSize=null"],
    ],
)
def test_override_that_a_stage_takes_is_none_that_contradicts(staged, overrides):
    resolve(staged, overrides)


def test_stages_say_what_they_do_with_moments_mix_and_fim():
    stages = [
        {"name": "one"},
        {
            "name": "two",
            "optimizerState": "reset",
            "mix": {"docs": 1, "code": 3.5},
            "fim": {"rate": 0.9, "spmRate": 0.5},
        },
    ]
    one, two = resolve(document(preset="amber-tiny", data={"stages": stages}), ["storage.uri=file:///r"]).stages
    assert (one.optimizer_state, one.mix, one.fim) == ("carry", None, None)
    assert (two.optimizer_state, two.mix) == ("reset", {"docs": 1.0, "code": 3.5})
    assert two.fim is not None
    assert (two.fim.rate, two.fim.spm_rate) == (0.9, 0.5)


def test_load_from_file_standard_input_and_preset(run_file, monkeypatch):
    from_file = load_run(str(run_file))
    assert from_file.store == "s3://bucket/small"
    monkeypatch.setattr("sys.stdin", io.StringIO(run_file.read_text()))
    assert load_run("-") == from_file
    assert load_run("amber-tiny", ["metadata.name=small"], store="s3://bucket/small/") == from_file
    run_file.write_bytes(from_file.canonical())
    assert load_run(str(run_file)) == from_file


def test_store_is_taken_as_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_run("amber-tiny", store="123").store == (tmp_path / "123").as_uri()


def test_run_without_a_store_is_refused_unless_allowed():
    with pytest.raises(SpecError, match=r"spec\.storage\.uri: needs a value.*--store"):
        load_run("amber-tiny")
    run = load_run("amber-tiny", require_store=False)
    with pytest.raises(SpecError, match="--store"):
        _ = run.store
    with pytest.raises(SpecError, match="--store"):
        _ = run.stages


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "amber-tinny",
            "there is no preset and no file 'amber-tinny' (did you mean 'amber-tiny'?); `llm360 presets list`",
        ),
        ("zzz", "there is no preset and no file 'zzz'; `llm360 presets list` shows"),
        ("nowhere/run.yaml", "there is no file 'nowhere/run.yaml', and no preset; `llm360 presets list` shows"),
        ("run.yml", "there is no file 'run.yml'"),
        (".", ".: cannot be read: Is a directory"),
    ],
)
def test_source_that_is_not_there_is_told(source, message):
    with pytest.raises(InputError) as caught:
        read_document(source)
    assert message in caught.value.message


def test_unreadable_json_is_refused():
    with pytest.raises(InputError, match=r"run\.json"):
        resolved_from_json(b'{"spec": \xff')


def leaves(schema, path=()):
    """Every scalar field with a strategy for its valid values."""
    for name, field in schema["properties"].items():
        if "properties" in field:
            yield from leaves(field, (*path, name))
        elif "enum" in field:
            yield (*path, name), st.sampled_from(field["enum"])
        elif field["type"] == "boolean":
            yield (*path, name), st.booleans()
        elif field["type"] == "integer":
            smallest = field["minimum"]
            yield (*path, name), st.integers(smallest, min(field["maximum"], smallest + 300))
        elif field["type"] == "number":
            exclusive = {
                f"exclude_{end}": field.get(f"exclusive{end.capitalize()}imum", False) for end in ("min", "max")
            }
            yield (*path, name), st.floats(field["minimum"], field["maximum"], **exclusive)


LEAVES = [leaf for leaf in leaves(spec_schema()) if leaf[0] != ("preset",)]
changes = st.lists(
    st.sampled_from(LEAVES).flatmap(lambda leaf: st.tuples(st.just(leaf[0]), leaf[1])), min_size=1, max_size=4
)
PRESETS = st.sampled_from(["amber-tiny", "amber-7b"])


def with_changes(preset, changed):
    """A document that states a preset and some fields."""
    spec = {"preset": preset}
    for path, value in changed:
        target = spec
        for name in path[:-1]:
            target = target.setdefault(name, {})
        target[path[-1]] = value
    return document(**spec)


def shuffled(value, random_source):
    """The same value with its members in another order."""
    if isinstance(value, dict):
        keys = list(value)
        random_source.shuffle(keys)
        return {key: shuffled(value[key], random_source) for key in keys}
    return [shuffled(member, random_source) for member in value] if isinstance(value, list) else value


@settings(max_examples=60)
@given(PRESETS, changes, st.integers(0, 2**16))
def test_resolving_again_changes_nothing_and_order_does_not_matter(preset, changed, seed):
    source = with_changes(preset, changed)
    try:
        run = resolve(source)
    except SpecError:
        return  # a rule between the fields; its words are tested in test_bad
    assert resolve(run.document()) == run
    assert resolved_from_json(run.canonical()) == run
    assert resolve(json.loads(json.dumps(run.document()))).canonical() == run.canonical()
    assert resolve(documents.parse(documents.dump(run.document()), "x")) == run
    other = resolve(shuffled(source, random.Random(seed)))
    assert other.identity_digest() == run.identity_digest()
    assert other.canonical() == run.canonical()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "uri", "stages", "schedule", "kind", "x"]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=8,
)
sections = st.sampled_from(list(spec_schema()["properties"]))


@settings(max_examples=80)
@given(st.dictionaries(sections, anything, max_size=4), st.booleans())
def test_whatever_is_given_ends_in_a_run_or_in_sentences(spec, with_preset):
    with contextlib.suppress(SpecError):
        resolve(document(**({"preset": "amber-tiny"} if with_preset else {}) | spec), local=True)


@settings(max_examples=100)
@given(anything)
def test_whatever_stands_for_the_document_ends_in_sentences(value):
    with pytest.raises(InputError):
        resolve(value)


@pytest.mark.parametrize("override", ["training.gradientClip=null", "evaluation.nodeSelector={}"])
def test_what_a_resolved_run_is_without_no_built_in_value_gives_back(override):
    """Workers, pods and replays get the resolved document: with a limit of the gradient they would train otherwise."""
    run = load_run("amber-tiny", [override], store="s3://b/x")
    assert resolved_from_json(run.canonical()) == run


def test_a_resolved_document_takes_built_in_values_of_what_came_since():
    old = load_run("amber-tiny", store="s3://b/x").document()
    del old["spec"]["recovery"]["maxAttempts"], old["spec"]["evaluation"]
    spec = resolve(old).spec
    assert (spec.recovery.max_attempts, spec.evaluation.retries) == (5, 3)
