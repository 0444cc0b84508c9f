"""Anyone's own analysis: the how-to's file and entry point, installed as a wheel is, from the command to the figure."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

import pytest

from llm360.cli.main import run
from llm360.errors import InputError
from llm360.release.analyses import merged_results
from llm360.release.create import open_release
from llm360.release.verify import verify
from llm360.report.analyses import analysis_figures
from llm360_trainer.analyze.analysis import available, load_analysis
from llm360_trainer.cli.analyze import configure

OWN = """\
from llm360_trainer.analyze.forgetting import Forgetting
class Own(Forgetting):
    name = "own"
    pass
"""

PAGE = Path(__file__).parents[4] / "docs/how-to/analyze.md"


def block(language: str) -> str:
    """The page's only block of a language."""
    (found,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return found


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Lays a module and its entry points where Python finds installed packages, as an installer unpacks a wheel."""

    def unpack(module: str, source: str, points: str) -> None:
        site = tmp_path / "site"
        metadata = site / f"{module}-1.0.dist-info"
        metadata.mkdir(parents=True)
        (site / f"{module}.py").write_text(source)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module.replace('_', '-')}\nVersion: 1.0\n")
        (metadata / "RECORD").write_text(f"{module}.py,,\n")
        (metadata / "entry_points.txt").write_text(points)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, module, raising=False)

    return unpack


def test_the_how_tos_analysis_runs_verifies_and_is_drawn(install, release, capsys):
    points = block("toml").replace('project.entry-points."llm360.analyses"', "llm360.analyses").replace('"', "")
    install("my_analyses", block("python"), points)

    code = run(["analyze", "confidence", release.uri, "--sequences", "6", "--chunks", "0,2", "-o", "json"])

    facts = json.loads(capsys.readouterr().out)
    assert (code, facts["measured"]) == (0, 8)
    shares = {cell["label"]: cell["values"]["confidence"] for cell in facts["cells"] if "source" not in cell}
    assert 0 < shares["init"] < 0.05 < shares["ckpt_002"] < 1
    assert verify(release.storage).ok
    found, _ = merged_results(release.storage, open_release(release.storage).history())
    (chart,) = analysis_figures(found)
    assert chart.title == "Probability of the likeliest next token (%)"
    assert [line.name for line in chart.drawn.lines] == ["chunk_000", "chunk_002"]


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("raise ImportError('no such library')", "broken:Own", "cannot be loaded: ImportError: no such library"),
        ("raise RuntimeError('no GPU\\nat 100 %')", "broken:Own", "cannot be loaded: RuntimeError: no GPU at 100 %;"),
        ("def (", "broken:Own", "cannot be loaded: SyntaxError: "),
        ("import sys; sys.exit(3)", "broken:Own", "cannot be loaded: SystemExit: 3; install its package again"),
        ("print('loaded')\n1/0", "broken:Own", "of the package 'broken' cannot be loaded: ZeroDivisionError: "),
        (OWN.replace("pass", "summary = None"), "broken:Own", "cannot be loaded: AttributeError: "),
        (
            OWN.replace("pass", "configure = lambda self, parser: parser.add_argument('--dtype')"),
            "broken:Own",
            "--dtype",
        ),
        (OWN.replace("pass", "configure = lambda self, parser: 1 / 0"), "broken:Own", "ZeroDivisionError"),
        ("", "broken:Own", "cannot be loaded: "),
        ("Own = 3", "broken:Own", "is no class derived from"),
        ("from llm360_trainer.analyze.forgetting import Forgetting as Own", "broken:Own", "calls itself otherwise"),
    ],
)
def test_a_broken_one_is_told_and_takes_no_other_with_it(install, release, capsys, source, target, sentence):
    install("broken", source, f"[llm360.analyses]\nown = {target}\n")
    for words in ([], [release.uri, "--chunks", "0"], ["--help"]):
        assert run(["analyze", "own", *words]) == 2
        (told,) = [line for line in capsys.readouterr().err.splitlines() if line != "loaded"]
        assert told.startswith("llm360: error: ")
        assert sentence in told
    assert load_analysis("forgetting").name == "forgetting"

    code = run(["analyze", "forgetting", release.uri, "--chunks", "0", "--sequences", "2", "-o", "json"])
    printed = capsys.readouterr()
    assert (code, json.loads(printed.out)["name"]) == (0, "forgetting")
    (warning,) = [line for line in printed.err.splitlines() if "warning" in line]
    assert warning.startswith("llm360: warning: the ")
    assert sentence in warning


def test_a_broken_one_is_seen_in_the_help_and_not_heard_in_completion(install, capsys):
    install("broken", "print('loaded')\nraise RuntimeError('only 5 % of it')", "[llm360.analyses]\nown = broken:Own\n")
    with pytest.raises(SystemExit) as stop:
        run(["analyze", "--help"])
    assert stop.value.code == 0
    assert "RuntimeError: only 5 % of it" in " ".join(capsys.readouterr().out.split())
    parser = argparse.ArgumentParser()
    configure(parser)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error" not in printed.err.lower()


def test_a_summary_may_have_a_percent_sign(install, capsys):
    install("good", OWN.replace("pass", "summary = 'share in % of all'"), "[llm360.analyses]\nown = good:Own\n")
    for words, summary in ((["--help"], "share in % of all"), (["own", "--help"], "Share in % of all.")):
        with pytest.raises(SystemExit) as stop:
            run(["analyze", *words])
        assert stop.value.code == 0
        assert summary in capsys.readouterr().out


def test_no_package_takes_the_place_of_what_is_built_in(install):
    install("bad", "Own = 3", "[llm360.analyses]\nmemorization = bad:Own\n")
    assert load_analysis("memorization").summary.startswith("which part of the training data")
    assert list(available())[:3] == ["memorization", "perplexity", "forgetting"]


def test_a_mistyped_name_is_told_with_the_nearest():
    with pytest.raises(InputError, match=r"there is no analysis 'memorisation' \(did you mean 'memorization'\?\)"):
        load_analysis("memorisation")


FAILING = """\
import sys
from llm360_trainer.analyze.analysis import Analysis
class Own(Analysis):
    name = "own"
    summary = reads = writes = "own"
    def measure(self, subject, piece, settings):
        return self.share(piece)
    def share(self, piece):
        return {line}
"""


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("1 / 0", "failed: ZeroDivisionError: division by zero, at {file}:9 in share"),
        ("piece.read.ids['a\\nb']", "failed: IndexError: only integers, "),
        ("sys.exit(3)", "failed: SystemExit: 3, at {file}:9 in share"),
        ("open('/no/such/words')", "failed: FileNotFoundError: [Errno 2] No such file or directory: '/no/such/words',"),
        ("(_ for _ in ()).throw(ValueError())", "failed: ValueError, at {file}:9 in <genexpr>"),
        ("None", "measured something that is no pyarrow.Table but a NoneType; its measure() has to return one"),
    ],
)
def test_what_goes_wrong_in_its_code_is_a_sentence_with_the_place(
    install, release, capsys, tmp_path, monkeypatch, line, sentence
):
    install("failing", FAILING.replace("{line}", line), "[llm360.analyses]\nown = failing:Own\n")
    monkeypatch.setenv("LLM360_TERMINATION_LOG", str(tmp_path / "log"))

    assert run(["analyze", "own", release.uri, "--sequences", "2", "--chunks", "0"]) == 2

    printed = capsys.readouterr()
    (told,) = printed.err.splitlines()
    assert printed.out == ""
    assert told.startswith("llm360: error: the analysis 'own' ")
    assert sentence.format(file=tmp_path / "site/failing.py") in told
    answer = json.loads((tmp_path / "log").read_text())
    assert (answer["reason"], answer["message"]) == ("AnalysisFailed", told.removeprefix("llm360: error: "))


def test_a_fault_of_ours_is_not_laid_at_its_door(install, release, monkeypatch):
    install("good", OWN, "[llm360.analyses]\nown = good:Own\n")
    monkeypatch.setattr("llm360_trainer.cli.analyze.select_checkpoints", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["analyze", "own", release.uri])
