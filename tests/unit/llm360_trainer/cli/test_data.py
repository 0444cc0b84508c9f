import contextlib
import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from llm360.cli.main import run
from llm360.data.manifest import load_manifest
from llm360.release.create import create_release
from llm360.release.entries import Stage, StageDigests
from llm360.release.writer import TrainingWriter
from llm360.storage import open_storage
from llm360_trainer.prepare import runner


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    """Commands run their tasks here instead of starting Ray."""
    monkeypatch.setattr(runner, "ray_session", lambda *_: contextlib.nullcontext(runner.InProcess()))


@pytest.fixture
def arguments(tmp_path):
    """A working `prepare`."""
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "fox": 1, "</s>": 2, "?": 3}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "text.txt").write_text("the fox\n" * 40)
    return [
        *("data", "prepare", "--source", f"text={tmp_path}/text.txt", "--tokenizer", str(tmp_path)),
        *("--sequence-length", "5", "--chunks", "2", "--out", str(tmp_path / "out")),
    ]


def test_prepare_verify_and_show(arguments, tmp_path, capsys):
    assert run(arguments) == 0
    printed = capsys.readouterr().out
    assert "rows        20 of 6 ids" in printed
    assert "personal    text: patterns of email 0, phone 0, ip address 0, credit card 0" in printed
    assert "duplicates  39 documents repeat another exactly; in one source: text 39" in printed
    assert run(["data", "verify", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("ok: 20 rows in 2 shards")
    assert run(["data", "show", str(tmp_path / "out"), "--step", "1", "--sample", "2", "--batch-size", "4"]) == 0
    shown = capsys.readouterr().out
    assert "step 1 sample 2 · chunk 0 row 6 · source text" in shown
    assert "the fox </s>" in shown


def test_output_as_json(arguments, tmp_path, capsys):
    assert run([*arguments, "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["row_tokens"] == 6
    show = ["data", "show", str(tmp_path / "out"), "--step", "0", "--batch-size", "4", "-o", "json"]
    assert run(show) == 0
    samples = json.loads(capsys.readouterr().out)
    assert [sample["sample"] for sample in samples] == [0, 1, 2, 3]
    assert samples[0]["pieces"][0].keys() == {"document", "offset", "start", "length", "text"}
    assert run(["data", "verify", str(tmp_path / "out"), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["problems"] == []


def test_rules_of_the_originals(arguments, tmp_path):
    assert run([*arguments, "--shuffle", "deal", "--packing", "overlapping"]) == 0
    manifest, _ = load_manifest(open_storage(str(tmp_path / "out")))
    assert (manifest.shuffle, manifest.recipe["packing"], manifest.rows) == ("deal", "overlapping", 22)
    assert run([*arguments, "--labels", "inside", "--out", str(tmp_path / "inside")]) == 0
    assert load_manifest(open_storage(str(tmp_path / "inside")))[0].row_tokens == 5


def test_fim_without_sentinels_or_source_is_refused_and_nothing_is_there(arguments, tmp_path, capsys):
    assert run([*arguments, "--fim", "text=0.9/0.5"]) == 2
    assert "needs sentinel tokens, but the tokenizer has no <|fim_prefix|>" in capsys.readouterr().err
    assert run([*arguments, "--fim", "tex=0.9"]) == 2
    assert "--fim names the source 'tex' (did you mean 'text'?)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_conversations_need_their_marks_and_a_source(arguments, tmp_path, capsys):
    assert run([*arguments, "--chat", "tex"]) == 2
    assert "--chat names the source 'tex' (did you mean 'text'?)" in capsys.readouterr().err
    assert run([*arguments, "--chat", "text"]) == 2
    assert "conversations (chat) need tokens that tell their parts apart" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_published_mix_needs_its_sources_and_no_numbers(arguments, tmp_path, capsys):
    text = f"{tmp_path}/text.txt"
    prepare = ["data", "prepare", "--tokenizer", str(tmp_path), "--out", str(tmp_path / "out"), "--recipe"]
    assert run([*prepare, "crystalcoder-stage1", "--source", f"arxiv={text}"]) == 2
    assert "the recipe needs the sources book, c4, commoncrawl, github, stackexchange" in capsys.readouterr().err
    assert run([*prepare, "crystalcoder", "--source", f"arxiv={text}"]) == 2
    assert "there is no recipe 'crystalcoder' (did you mean 'crystalcoder-stage" in capsys.readouterr().err
    names = ("arxiv", "book", "c4", "commoncrawl", "github", "stackexchange", "wikipedia")
    sources = [part for name in names for part in ("--source", f"{name}={text}")]
    assert run([*prepare, "crystalcoder-stage1", *sources, "--sequence-length", "5"]) == 0
    manifest, _ = load_manifest(open_storage(str(tmp_path / "out")))
    assert (manifest.recipe["recipe"], manifest.recipe["packing"]) == ("crystalcoder-stage1", "overlapping")
    assert manifest.sources[3].weight == pytest.approx(0.5334581653397988)
    assert run([*prepare[:-1], "--source", f"arxiv={text}"]) == 2
    assert "--sequence-length is missing" in capsys.readouterr().err


def test_verify_names_a_flipped_byte_and_exits_with_1(arguments, tmp_path, capsys):
    run(arguments)
    shard = next((tmp_path / "out").rglob("*.parquet"))
    data = bytearray(shard.read_bytes())
    data[10] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert run(["data", "verify", str(tmp_path / "out")]) == 1
    assert f"wrong: {shard.relative_to(tmp_path / 'out')}: has sha256" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--tokenizer", "nowhere"], "the tokenizer nowhere cannot be read"),
        (["--source", "broken"], "is not NAME=PATH"),
        (["--cpus", "0"], "--cpus is 0"),
        (["--chunks", "99"], "too few for 99 chunks"),
        (["--eos", "<stop>"], "no token or id '<stop>'"),
    ],
)
def test_bad_arguments_are_one_sentence_and_exit_with_2(arguments, tmp_path, capsys, change, message):
    assert run([*arguments, *change]) == 2
    assert message in capsys.readouterr().err
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def test_show_needs_a_batch_where_no_release_tells_it(arguments, tmp_path, capsys):
    run(arguments)
    capsys.readouterr()
    assert run(["data", "show", str(tmp_path / "out"), "--step", "0"]) == 2
    assert "give --batch-size" in capsys.readouterr().err


@pytest.fixture
def release(arguments, tmp_path):
    """A release of two stages, each with the data of `arguments`; a step has 4 rows, the second stage carries on."""
    storage = open_storage(str(tmp_path / "run"))
    writer = TrainingWriter(create_release(storage, {"preset": "none"}))
    writer.claim(world_size=1, device="cpu", operations={}, environment={})
    for index, (steps, remainder) in enumerate([(4, "drop"), (5, "carry")]):
        assert run([*arguments, "--seed", str(index), "--out", str(tmp_path / f"run/data/stage{index}")]) == 0
        manifest, digest = load_manifest(storage.at(f"data/stage{index}"))
        stage = Stage(
            attempt=writer.attempt,
            step=4 * index,
            tokens=4 * index * 4 * manifest.predictions,
            stage=index,
            name=f"stage{index}",
            num_steps=steps,
            data=f"data/stage{index}",
            chunk_rows=manifest.chunk_rows,
            batch_rows=4,
            remainder=remainder,
            predictions=manifest.predictions,
            digests=StageDigests(manifest=digest),
        )
        writer.stage(stage)
    return tmp_path / "run"


def shown_places(capsys, uri, step, *more):
    capsys.readouterr()
    assert run(["data", "show", str(uri), "--step", str(step), "-o", "json", *more]) == 0
    return [(item["step"], item["chunk"], item["row"]) for item in json.loads(capsys.readouterr().out)]


def test_show_takes_the_batch_and_the_stage_from_a_release(release, capsys):
    assert shown_places(capsys, release, 2) == [(2, 1, row) for row in range(4)]
    assert shown_places(capsys, release, 6) == [(6, 0, 8), (6, 0, 9), (6, 1, 0), (6, 1, 1)]
    # The data of a stage inside a release, with steps of its own.
    assert shown_places(capsys, release / "data/stage1", 2) == [(2, 0, 8), (2, 0, 9), (2, 1, 0), (2, 1, 1)]
    assert shown_places(capsys, release / "data/stage1", 2, "--batch-size", "2") == [(2, 0, 4), (2, 0, 5)]
    assert run(["data", "show", str(release), "--step", "9"]) == 2
    assert "have steps 0 to 8" in capsys.readouterr().err


def test_show_refuses_data_that_the_ledger_does_not_name(release, capsys):
    (release / "data/stage0/manifest.json").write_bytes((release / "data/stage1/manifest.json").read_bytes())
    assert run(["data", "show", str(release), "--step", "0"]) == 1
    assert "but the ledger names" in capsys.readouterr().err


def test_show_where_nothing_is(tmp_path, capsys):
    assert run(["data", "show", str(tmp_path), "--step", "0"]) == 2
    assert "holds neither a release nor prepared data" in capsys.readouterr().err


def test_import_with_bad_lines(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"token_ids": [1, 2, 3]}\n{"token_ids": [1]}\n')
    command = ["data", "import", "--format", "amber-jsonl", str(path), "--row-tokens", "3", "--out", f"{tmp_path}/out"]
    assert run(command) == 2
    assert "rows.jsonl line 2 has 1 ids" in capsys.readouterr().err
    assert run([*command, "--skip-bad"]) == 0
    assert "skipped     1 bad lines" in capsys.readouterr().out


HEAVY = "import sys; from llm360.cli.main import run\ntry: run(['data', 'show', '--help'])\nexcept SystemExit: pass\n"


def test_help_imports_nothing_heavy():
    code = HEAVY + "sys.exit(sorted({'ray', 'pyarrow', 'numpy', 'tokenizers', 'torch'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "examples:" in done.stdout
