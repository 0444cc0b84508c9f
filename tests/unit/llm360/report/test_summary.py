from __future__ import annotations

from datetime import timedelta

from llm360.release.create import open_release
from llm360.report.facts import read_facts
from llm360.report.summary import run_summary, status_text


def status(run, after=timedelta(seconds=2)) -> str:
    now = run.now + after
    return status_text(read_facts(run.storage, open_release(run.storage).history(), now), now)


def test_status_of_a_run_in_progress(interrupted):
    text = status(interrupted)

    assert "phase        in progress\n" in text
    assert "step         110 of 400 (27%)\n" in text
    assert "tokens       225k of 819k\n" in text
    assert "checkpoints  3, the last one ckpt_001\n" in text
    assert "\ndone in      1m" in text
    assert text.endswith(f"head         {interrupted.entries[-1].name}")


def test_a_time_that_has_passed_is_no_forecast(interrupted):
    text = status(interrupted, timedelta(minutes=9))
    assert "phase        in progress\n" in text
    assert "done in" not in text


def test_status_of_a_silent_run_says_what_to_do(interrupted):
    text = status(interrupted, timedelta(hours=3))

    assert "nothing was committed for 3h00m; start it again to go on" in text
    assert "done in" not in text


def test_status_of_a_complete_run(eventful):
    text = status(eventful)

    assert "phase        complete\n" in text
    assert "(mean of the last 100 steps 3.0845)" in text
    assert "evaluations  1\n" in text


def test_summary_compares_the_loss_with_the_unigram_entropy(eventful):
    history = open_release(eventful.storage).history()
    text = run_summary(eventful.storage, history, eventful.now, report="out/index.html", verdict="yes: all of it")

    assert "run          amber-tiny, complete\n" in text
    assert "loss         3.0845 (last 100 steps), 3.0155 below the unigram entropy 6.1000\n" in text
    assert "attempts     3 (2 restarts)\n" in text
    assert "verified     yes: all of it\nreport       out/index.html\n" in text
    assert f"ledger head  {eventful.entries[-1].name} (entry 31)\n" in text
    assert "llm360 verify " in text


def test_summary_without_the_data_has_the_loss_alone(eventful):
    eventful.storage.delete("data/stage1/manifest.json")
    text = run_summary(eventful.storage, open_release(eventful.storage).history(), eventful.now)

    assert "loss         3.0845\n" in text
