"""What may go, what must stay, and in which order it goes."""

from __future__ import annotations

import json
import os
import time

import pytest

from llm360.cli.main import run as command
from llm360.errors import InputError
from llm360.release.create import open_release
from llm360.release.gc import delete_litter, find_litter
from llm360.release.prune import apply_retention, plan_retention, prune_by_hand
from llm360.release.selection import find_checkpoint
from llm360.release.verify import verify

LITTER = "checkpoints/step_000000004/a001/model/config.json"
DAY = 86_400.0


def files(storage, prefix):
    return [info.key for info in storage.list(prefix)]


@pytest.fixture
def run(builder):
    """Six steps: published 0, 2, 4, 6; resume checkpoints 1, 3, 5."""
    builder.start()
    builder.pin_stages()
    builder.checkpoint(0, "init")
    for step in range(1, 7):
        builder.metrics(step, step)
        builder.checkpoint(step, *([f"step{step}"] if step % 2 == 0 else []), published=step % 2 == 0)
    return builder


def planned(history, **options):
    return [(removal.checkpoint.step, removal.parts) for removal in plan_retention(history, **options)]


def test_last_two_resume_checkpoints_stay(run):
    assert planned(run.ledger.history()) == [(1, ("model", "state"))]
    assert planned(run.ledger.history(), keep_resume=1) == [(1, ("model", "state")), (3, ("model", "state"))]


@pytest.mark.parametrize(("keep_state", "steps"), [(None, []), (4, []), (3, [0]), (1, [0, 2, 4]), (0, [0, 2, 4])])
def test_state_of_the_newest_published_stays(run, keep_state, steps):
    assert planned(run.ledger.history(), keep_state=keep_state, keep_resume=9) == [(s, ("state",)) for s in steps]


def test_what_training_would_go_on_from_stays_until_the_run_is_complete(run):
    assert 6 not in dict(planned(run.ledger.history(), keep_state=0))
    run.writer.complete()
    assert 6 in dict(planned(run.ledger.history(), keep_state=0))


def test_retention_records_first_then_removes_and_verify_understands(run):
    removed = apply_retention(run.writer, keep_resume=1, keep_state=1)
    assert [removal.checkpoint.step for removal in removed] == [0, 1, 2, 3, 4]
    assert files(run.storage, "checkpoints/step_000000003/") == ["checkpoints/step_000000003/a001/manifest.json"]
    assert not files(run.storage, "checkpoints/step_000000002/a001/state/")
    assert files(run.storage, "checkpoints/step_000000002/a001/model/")
    report = verify(run.storage)
    assert report.ok, report.first_fault
    assert "checkpoints with pruned parts: 5" in report.checks[8].note
    assert apply_retention(run.writer, keep_resume=1, keep_state=1) == []


def test_files_that_a_checkpoint_made_again_has_stay(builder):
    """After a fallback, an attempt may make a checkpoint again in the folder of the damaged one."""
    _initial, damaged = builder.fall_back()
    builder.metrics(1, 2)
    builder.checkpoint(2, "ckpt_000")
    assert [removal.checkpoint.name for removal in apply_retention(builder.writer)] == [damaged.name]
    report = verify(builder.storage)
    assert report.ok, report.first_fault
    again = find_checkpoint(builder.ledger.history(), "ckpt_000")
    builder.metrics(3, 4)
    builder.checkpoint(4, "ckpt_001")
    prune_by_hand(builder.ledger, again, ["state"], "why")
    assert not files(builder.storage, f"{again.body.prefix}/state/")
    assert verify(builder.storage).ok


def test_a_crash_between_entry_and_removal_leaves_litter_only(run):
    run.writer.prune(run.ledger.history().branch[1], ["model", "state"], "why")
    assert verify(run.storage).ok
    litter = find_litter(run.storage, run.ledger.history(), now=time.time() + 2 * DAY)
    assert {item.why for item in litter} == {"pruned"}
    assert {item.info.key.split("/")[1] for item in litter} == {"step_000000001"}
    delete_litter(run.storage, litter)
    assert verify(run.storage).ok


def test_by_hand(run):
    history = run.ledger.history()
    second = find_checkpoint(history, "step2")
    assert prune_by_hand(run.ledger, second, ["state"], "why").parts == ("state",)
    assert prune_by_hand(run.ledger, second, ["state"], "why") is None
    assert prune_by_hand(run.ledger, second, ["model", "state"], "why").parts == ("model",)
    assert verify(run.storage).ok
    with pytest.raises(InputError, match="what training would go on from"):
        prune_by_hand(run.ledger, find_checkpoint(history, "6"), ["state"], "why")
    with pytest.raises(InputError, match="there is no checkpoint 'step9'; there are init, 1, step2"):
        find_checkpoint(history, "step9")


def make_old(release):
    for path in release.folder.rglob("*"):
        os.utime(path, (time.time() - 2 * DAY,) * 2)


def test_litter_of_older_attempts(release):
    history = open_release(release.storage).history()
    assert find_litter(release.storage, history) == []
    make_old(release)
    assert [item.info.key for item in find_litter(release.storage, history)] == [LITTER]


def test_newest_attempt_is_left_alone(release):
    release.path("metrics/a002/9-9-000000000000.parquet").write_bytes(b"about to be named")
    make_old(release)
    assert [item.info.key for item in find_litter(release.storage, open_release(release.storage).history())] == [LITTER]


def test_unfinished_writes_of_older_attempts(release):
    for attempt in (1, 2):
        release.path(f"metrics/a00{attempt}/.llm360-tmp-0123").write_bytes(b"half")
    release.path("ledger/.llm360-tmp-0123").write_bytes(b"half")
    make_old(release)
    litter = find_litter(release.storage, open_release(release.storage).history())
    unfinished = [item.info.key for item in litter if item.why == "unfinished write"]
    assert sorted(unfinished) == ["ledger/.llm360-tmp-0123", "metrics/a001/.llm360-tmp-0123"]
    delete_litter(release.storage, litter)
    assert not release.path("ledger/.llm360-tmp-0123").exists()
    assert release.path("metrics/a002/.llm360-tmp-0123").exists()


def test_files_of_a_checkpoint_whose_manifest_is_damaged_stay(release):
    release.path("checkpoints/step_000000002/a001/manifest.json").write_bytes(b"{}")
    make_old(release)
    assert [item.info.key for item in find_litter(release.storage, open_release(release.storage).history())] == [LITTER]


def test_gc_command_is_dry_by_default(release, capsys):
    make_old(release)
    assert command(["gc", str(release.folder)]) == 0
    assert f"{LITTER}  (named by no entry)" in (out := capsys.readouterr().out)
    assert "1 object, 6 B would be removed; run again with --delete" in out
    assert release.path(LITTER).exists()
    assert command(["gc", str(release.folder), "--delete", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["litter"][0]["key"] == LITTER
    assert not release.path(LITTER).exists()
    assert command(["gc", str(release.folder)]) == 0
    assert capsys.readouterr().out == "no litter\n"
    assert release.verify(tensors="all", data=True).ok


def test_gc_command_takes_an_age(release, capsys):
    make_old(release)
    assert command(["gc", str(release.folder), "--older-than", "3d"]) == 0
    assert capsys.readouterr().out == "no litter\n"
    assert command(["gc", str(release.folder), "--older-than", "soon"]) == 2
    assert "write a number and one of s, m, h, d" in capsys.readouterr().err


def test_prune_command(release, capsys):
    assert command(["prune", str(release.folder), "--checkpoint", "ckpt_000", "--state"]) == 0
    assert capsys.readouterr().out == "step 2: state pruned\n"
    assert not release.path("checkpoints/step_000000002/a001/state").exists()
    assert command(["prune", str(release.folder), "--checkpoint", "2"]) == 0
    assert capsys.readouterr().out == "step 2: state had been pruned before\n"
    assert command(["prune", str(release.folder), "--checkpoint", "ckpt_009", "--model"]) == 2
    assert release.verify().ok


def test_ls_command(release, capsys):
    assert command(["ls", str(release.folder)]) == 0
    out = capsys.readouterr().out
    assert "ckpt_001" in out
    assert "(resume)" in out
    assert out.endswith("complete\n")
    assert command(["ls", str(release.folder), "-o", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [item["step"] for item in facts["checkpoints"]] == [0, 2, 3, 4, 6]
    assert [item["fromStep"] for item in facts["attempts"]] == [0, 3]
    assert [item["name"] for item in facts["stages"]] == ["one", "two"]
    assert [(item["stage"], item["stageStep"]) for item in facts["checkpoints"]][-2:] == [(0, 4), (1, 2)]
    for stage in ("two", "1"):
        assert command(["ls", str(release.folder), "--stage", stage, "-o", "json"]) == 0
        assert [item["step"] for item in json.loads(capsys.readouterr().out)["checkpoints"]] == [6]
    assert command(["ls", str(release.folder), "--stage", "tow"]) == 2
    assert "did you mean 'two'" in capsys.readouterr().err
