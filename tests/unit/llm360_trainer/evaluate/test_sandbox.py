"""Programs run where they reach nothing; real namespaces, as they are made for the model's code."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from lm_eval.api.model import LM

from llm360.errors import InputError
from llm360.release.scores import scores_of
from llm360_trainer.evaluate import sandbox
from llm360_trainer.evaluate.data import TaskData
from llm360_trainer.evaluate.harness import Seeds, run_task, set_shots
from llm360_trainer.evaluate.run import load_tasks
from llm360_trainer.evaluate.sandbox import CodeEval, check_sandbox, pass_at_k, passes
from llm360_trainer.evaluate.tasks import parse_tasks


@pytest.fixture(autouse=True, scope="module")
def _namespaces():
    try:
        check_sandbox()
    except InputError as error:
        pytest.skip(f"no namespaces here: {error.message}")


@pytest.mark.parametrize(
    "program",
    ["assert 1 + 1 == 2", "import math, typing, collections", "open('scratch', 'w').write('here it may')"],
)
def test_what_may_be_done(program):
    assert passes(program)


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 + 1 == 3",
        "def f(:",
        "raise SystemExit(0)",
        "import os; os._exit(0)",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
        "import socket; socket.create_connection(('192.0.2.1', 80), 2)",
        "open({file!r}, 'a')",
        "import os; os.remove({file!r})",
        "import os; assert 'LLM360_SECRET' in os.environ",
        "import os; os.kill({pid}, 0)",
        "open('/proc/{pid}/environ')",
        "x = bytearray(8 << 30)",
    ],
)
def test_what_is_kept_from_it(program, tmp_path, monkeypatch):
    import socket

    monkeypatch.setenv("LLM360_SECRET", "of the parent")
    file = tmp_path / "file"
    file.write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = {"port": server.getsockname()[1], "file": str(file), "pid": os.getpid()}
        assert not passes(program.format(**words) if "{" in program else program)
    assert file.read_text() == "kept"
    assert list(Path(tmp_path).iterdir()) == [file]


def test_endless_programs_end(monkeypatch):
    assert not passes("while True: pass"), "by the kernel, after its seconds of CPU"
    monkeypatch.setattr(sandbox, "_START_SECONDS", 0.0)
    monkeypatch.setattr(sandbox, "TIMEOUT_SECONDS", 1.0)
    assert not passes("import time; time.sleep(1000)"), "by the clock"


def test_code_eval_counts_as_published():
    tests = ["assert double(2) == 4", "assert twice(2) == 4"]
    programs = [["def double(x): return 2 * x", "def double(x): return x"], ["def twice(x): return x", "nonsense("]]
    scores, passed = CodeEval().compute(references=tests, predictions=programs, k=[1, 2, 5])
    assert passed == {0: [True, False], 1: [False, False]}
    assert scores == {"pass@1": 0.25, "pass@2": 0.5}


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (6, 0, 3), (6, 4, 3), (4, 4, 2)])
def test_pass_at_k_is_the_share_of_draws_with_one_that_passed(n, c, k):
    draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws))


class Programmer(LM):
    """Writes the right program for every other problem."""

    def generate_until(self, requests):
        return [
            f"    return x + {number if number % 2 else number + 1}\n"
            for number in (int(request.doc["task_id"].partition("/")[2]) for request in requests)
        ]

    def loglikelihood(self, requests):
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def test_humaneval_is_scored_by_programs_that_ran_here(mirror):
    (request,) = parse_tasks("humaneval:0")
    loaded = load_tasks([request], TaskData(mirror), allow_code=True)[request]
    set_shots(loaded.tasks, request)
    results = run_task(Programmer(), loaded.tasks, request, seeds=Seeds(), allow_code=True)
    assert [(score.metric, score.value) for score in scores_of(results, "humaneval")] == [("pass@1,create_test", 0.5)]


@pytest.mark.parametrize("name", ["cruxeval_input", "humaneval_single_line_infilling"])
def test_tasks_that_run_code_by_ways_of_their_own_are_refused(mirror, name):
    with pytest.raises(InputError, match="by ways of its own, which cannot be shut in here"):
        load_tasks(parse_tasks(name), TaskData(mirror), allow_code=True)


def test_where_nothing_can_be_shut_in_nothing_runs(monkeypatch):
    monkeypatch.setattr(sandbox, "_UNSHARE", ("false",))
    with pytest.raises(InputError, match="cannot be shut in on this machine"), sandbox.serving():
        raise AssertionError("not reached")
