"""The commands that show, check and describe specifications."""

import hashlib
import json
import shlex

import pytest
import yaml

from llm360.cli import main
from llm360.release.create import create_release, open_release
from llm360.release.entries import Attempt
from llm360.spec import load_run
from llm360.storage import open_storage

SAMPLE = "manifests/samples/amber-tiny.yaml"
WORKERS = "cluster.workers.replicas"


@pytest.fixture
def llm360(capsys, monkeypatch, request):
    """Runs a command line from the repository's root: exit code, standard output, standard error."""
    monkeypatch.chdir(request.config.rootpath)

    def run(line):
        code = main.run(shlex.split(line))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_resolve_prints_yaml_that_resolves_to_the_same(llm360, tmp_path):
    code, out, err = llm360("spec resolve amber-tiny --store s3://b/x --set training.seed=7")
    assert code == 0
    run = load_run("amber-tiny", ["training.seed=7"], store="s3://b/x")
    assert yaml.safe_load(out)["spec"]["training"]["seed"] == 7
    path = tmp_path / "run.yaml"
    path.write_text(out)
    assert load_run(str(path)) == run
    assert err == f"identity {run.identity_digest()}\n"


def test_resolve_to_json_is_canonical(llm360):
    _, out, _ = llm360(f"spec resolve {SAMPLE} -o json")
    assert out.encode() == load_run(SAMPLE).canonical()


def test_digest_can_be_computed_by_others(llm360):
    _, digest, err = llm360(f"spec resolve {SAMPLE} --digest")
    _, identity, _ = llm360(f"spec resolve {SAMPLE} --identity -o json")
    assert digest == f"sha256:{hashlib.sha256(identity.encode()).hexdigest()}\n"
    assert err == ""
    assert "cluster" not in json.loads(identity)


def test_missing_store_is_mentioned(llm360):
    code, _, err = llm360("spec resolve amber-tiny")
    assert code == 0
    assert err.endswith("storage.uri is not set yet and belongs to the identity: give --store\n")


@pytest.fixture
def release(tmp_path):
    """A release that has begun, at its address: two attempts, the second on three workers."""
    uri = str(tmp_path / "mine")
    runs = [load_run("amber-tiny", ["training.seed=7", *more], store=uri) for more in ([], [f"{WORKERS}=3"])]
    ledger = create_release(open_storage(uri), runs[0].identity())
    for number, run in enumerate(runs, start=1):
        fields = {"step": 0, "tokens": 0, "checkpoint": None, "world_size": 1, "device": "cpu"}
        claim = Attempt(attempt=number, operations=run.operations(), **fields)
        ledger.append(lambda _, claim=claim: claim)
    return uri


def test_the_run_file_of_a_release_is_the_same_run(llm360, release, tmp_path):
    code, out, err = llm360(f"spec recorded {release}")
    assert (code, err) == (0, f"identity {open_release(open_storage(release)).history().config_digest}\n")
    assert out.splitlines()[0] == f"# Attempt 2 of file://{release}"
    path = tmp_path / "run.yaml"
    path.write_text(out)
    assert llm360(f"spec validate {path}")[:2] == (0, f"{path}: ok\n")
    assert llm360(f"spec resolve {path} --digest")[1] == err.removeprefix("identity ")
    run = load_run(str(path))
    assert (run.name, run.spec.training.seed, run.spec.cluster.workers.replicas) == ("mine", 7, 3)
    assert llm360(f"spec recorded {release} -o json")[1].encode() == run.canonical()
    first = json.loads(llm360(f"spec recorded {release} --attempt 1 -o json")[1])
    assert first["spec"]["cluster"]["workers"]["replicas"] != 3


def test_a_release_that_was_moved_is_not_what_its_run_file_goes_on_with(llm360, release, tmp_path):
    (tmp_path / "mine").rename(tmp_path / "moved")
    code, _, err = llm360(f"spec recorded {tmp_path}/moved")
    assert code == 0
    assert f"it was written at file://{release}, and that is where `llm360 run` goes with it" in err
    assert f"whatever lies at file://{tmp_path}/moved" in err


def test_what_has_no_run_file_is_told(llm360, release, tmp_path):
    nowhere = llm360(f"spec recorded {tmp_path / 'nowhere'}")
    assert nowhere[:2] == (2, "")
    assert nowhere[2].startswith(f"llm360: error: there is no release at file://{tmp_path}/nowhere: ledger/")
    assert llm360(f"spec recorded {release} --attempt 3") == (
        2,
        "",
        "llm360: error: there is no attempt 3; the ledger has 1, 2\n",
    )
    (config,) = (tmp_path / "mine/config").iterdir()
    config.write_text(config.read_text().replace('"seed":7', '"seed":8'))
    assert llm360(f"spec recorded {release}")[:2] == (1, "")


def test_wrong_value_is_one_sentence_and_exit_2(llm360):
    code, out, err = llm360("spec resolve amber-tiny --set training.batchsize=64")
    assert (code, out) == (2, "")
    assert err == "llm360: error: spec.training.batchsize: unknown field (did you mean 'batchSize'?)\n"


def test_validate_lists_all_errors_of_all_sources(llm360, tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump({"kind": "Run", "metadata": {"name": "a"}, "spec": {"preset": "amber-tiny", "x": 1}}))
    code, out, _ = llm360(f"spec validate {SAMPLE} {bad} nowhere")
    assert code == 2
    lines = out.splitlines()
    assert lines[0] == f"{SAMPLE}: ok"
    assert lines[1:3] == [
        f"{bad}: apiVersion: needs a value; write apiVersion: llm360.ai/v1alpha1",
        f'{bad}: kind: must be LLM360Run, found "Run"',
    ]
    assert lines[3].startswith(f"{bad}: spec.x: unknown field; fields here are preset, model")
    assert lines[4].startswith("nowhere: there is no preset and no file 'nowhere'")
    code, out, _ = llm360(f"spec validate {SAMPLE} {bad} -o json")
    assert [len(entry["errors"]) for entry in json.loads(out)] == [0, 3]


def test_all_samples_and_presets_are_valid(llm360):
    assert llm360(f"spec validate {SAMPLE} amber-tiny amber-7b")[0] == 0


def test_schema_is_the_same_in_both_forms(llm360):
    _, as_yaml, _ = llm360("spec schema")
    _, as_json, _ = llm360("spec schema -o json")
    assert yaml.safe_load(as_yaml) == json.loads(as_json)
    assert "default:" not in as_yaml
    assert "$ref" not in as_yaml


def test_reference_is_printed(llm360):
    assert llm360("spec reference")[1].startswith("# LLM360Run\n")


def test_plan_says_what_a_step_needs(llm360):
    code, out, _ = llm360("spec plan amber-7b --gpus 8 --gpu h200 --mfu 0.5 -o json")
    facts = json.loads(out)
    assert code == 0
    assert facts["fits"]
    parts = facts["memory_bytes"]
    assert sum(size for name, size in parts.items() if name != "total") == parts["total"]
    assert facts["tokens_per_second"] == pytest.approx(2240 * 2048 / facts["step_seconds"]["total"])
    code, out, _ = llm360("spec plan amber-7b --gpus 8")
    assert code == 0
    assert "at the peak, so at most" in out


def test_plan_refuses_what_cannot_fit(llm360):
    code, out, err = llm360("spec plan k2-65b --gpus 8")
    assert code == 2
    assert "capacity" in out
    assert err.startswith("llm360: error: a step needs ")
    assert llm360("spec plan amber-7b --mfu 1.5")[::2] == (
        2,
        "llm360: error: --mfu is 1.5; a share above 0 and at most 1 is allowed\n",
    )


def test_plan_of_a_cpu_run_measures_its_pods(llm360):
    facts = json.loads(llm360("spec plan amber-tiny -o json")[1])
    assert facts["capacity_bytes"] == 3 * 2**30
    assert "tokens_per_second" not in facts
