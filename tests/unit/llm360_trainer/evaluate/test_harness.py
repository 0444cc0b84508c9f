"""A task that crashes on a sample says which; seeds and shots are those asked for."""

from __future__ import annotations

import pytest

from llm360.errors import InputError, LLM360Error
from llm360.release.create import open_release
from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.evaluate.harness import Seeds, run_task
from llm360_trainer.evaluate.model import DecoderLM
from llm360_trainer.evaluate.tasks import parse_tasks
from llm360_trainer.exchange.opened import open_checkpoint


@pytest.fixture
def model(trained) -> DecoderLM:
    history = open_release(trained.storage).history()
    return DecoderLM(open_checkpoint(trained.storage, history, history.branch[-1]), Batches(8))


def run(model, loaded, words, **settings):
    return run_task(model, loaded.tasks, parse_tasks(words)[0], seeds=Seeds(), **settings)


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("method", ["doc_to_text", "construct_requests", "process_results"])
def test_crashing_samples_are_all_named(model, load_task, monkeypatch, method, samples):
    loaded = load_task("arc_easy:0")
    task = loaded.tasks["tasks"]["arc_easy"]
    whole = run(model, loaded, "arc_easy", samples=samples)
    kind, original, seen = type(task), getattr(type(task), method), []

    def crashing(self, doc, *args, **kwargs):
        seen.append(doc["id"])
        if doc["id"] in ("made-2", "made-5"):
            raise KeyError("a column")
        return original(self, doc, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(kind, method, crashing)
        with pytest.raises(LLM360Error) as caught:
            run(model, loaded, "arc_easy", samples=samples)
    told = "crashed on sample 2 of arc_easy (KeyError: 'a column'); sample 5 of arc_easy (KeyError: 'a column')"
    assert told in caught.value.message
    assert caught.value.reason == "TaskFailed"
    assert {f"made-{number}" for number in range(9)} <= set(seen), "the others were tried"
    assert run(model, loaded, "arc_easy", samples=samples)["results"] == whole["results"], "and nothing stays behind"


def test_shots_are_drawn_by_the_seed(model, load_task):
    loaded = load_task("arc_easy:2")

    def prompts(seeds):
        results = run_task(model, loaded.tasks, parse_tasks("arc_easy:2")[0], seeds=seeds, samples=True)
        return [sample["arguments"][0][0] for sample in results["samples"]["arc_easy"]]

    first = prompts(Seeds())
    assert prompts(Seeds()) == first
    assert prompts(Seeds.of(5)) != first
    assert all(prompt.count("Question:") == 3 for prompt in first)


def test_text_that_is_drawn_at_random_is_refused(model, load_task):
    loaded = load_task("gsm8k:1")
    loaded.tasks["tasks"]["gsm8k"].set_config("generation_kwargs", {"temperature": 0.8, "do_sample": True}, update=True)
    with pytest.raises(InputError, match=r"task 'gsm8k' draws its text at random \(temperature 0\.8\)"):
        run(model, loaded, "gsm8k")


def test_more_new_tokens_than_the_model_has_room_for_are_refused(model, load_task):
    with pytest.raises(InputError, match="asks for 256 new tokens, but the model has room for 64 in all"):
        run(model, load_task("gsm8k:1"), "gsm8k:1")
