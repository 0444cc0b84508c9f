"""Our model says what the harness's Hugging Face backend says of the exported checkpoint, to 1e-4 in every number."""

from __future__ import annotations

import random

import numpy as np
import pytest
from lm_eval.evaluator import evaluate

from llm360.release.create import open_release
from llm360_trainer.evaluate.batches import Batches
from llm360_trainer.evaluate.model import DecoderLM
from llm360_trainer.exchange.export import export_checkpoint
from llm360_trainer.exchange.opened import open_checkpoint

TOLERANCE = 1e-4
TASKS = (
    "arc_easy:0", "arc_challenge:5", "hellaswag:3", "truthfulqa_mc2:0", "mmlu_astronomy:5", "wikitext:0", "gsm8k:1",
    "crows_pairs_english:0", "toxigen:0",
)  # fmt: skip


@pytest.fixture(params=[("amber-tiny", 512), ("pythia-tiny", 300)], ids=["llama", "gpt-neox"])
def both(request, make_release, tmp_path):
    """Our model of a release, and theirs of the same release's exported folder."""
    preset, positions = request.param
    release = make_release(preset, f"model.maxPositionEmbeddings={positions}")
    history = open_release(release.storage).history()
    ours = DecoderLM(open_checkpoint(release.storage, history, history.branch[0]), Batches(4))
    folder = export_checkpoint(release.storage, "init", out=tmp_path / "hf").folder
    return ours, hugging_face(folder)


def hugging_face(folder):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        from lm_eval.models.huggingface import HFLM

        return HFLM(pretrained=str(folder), device="cpu", batch_size=4, dtype="float32")


def said(model, loaded):
    """What a model answers to every request of a task, in their order."""
    answers = {}
    for task in loaded.tasks["tasks"].values():
        task.set_fewshot_seed(1234)
    random.seed(0)
    np.random.seed(1234)
    results = evaluate(model, loaded.tasks, log_samples=True, bootstrap_iters=0)
    for name, samples in results["samples"].items():
        for sample in samples:
            answers[name, sample["doc_id"], sample["filter"]] = (sample["arguments"], sample["resps"])
    return answers


@pytest.mark.parametrize("words", TASKS)
def test_every_answer_is_theirs(both, load_task, words):
    ours, theirs = both
    loaded = load_task(words)
    found, expected = said(ours, loaded), said(theirs, loaded)
    assert found.keys() == expected.keys()
    assert found
    for sample, (arguments, answers) in expected.items():
        assert found[sample][0] == arguments
        for mine, their in zip(found[sample][1], answers, strict=True):
            compare(mine[0], their[0])


def compare(mine, their):
    if isinstance(their, str):
        assert mine == their
    elif isinstance(their, float):
        assert mine == pytest.approx(their, abs=TOLERANCE, rel=1e-6)
    else:
        assert mine[0] == pytest.approx(their[0], abs=TOLERANCE, rel=1e-6)
        assert mine[1] == their[1]
