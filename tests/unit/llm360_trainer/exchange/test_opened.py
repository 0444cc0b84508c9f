"""An opened checkpoint computes what the trained model computes, and is refused where a byte differs."""

from __future__ import annotations

import pytest
import torch

from llm360.errors import InputError, IntegrityError
from llm360.release.create import open_release
from llm360.release.entries import Prune
from llm360.release.selection import select_checkpoints
from llm360_trainer.exchange.opened import open_checkpoint


@pytest.mark.parametrize("preset", ["amber-tiny", "pythia-tiny", "crystal-tiny"])
def test_opened_decoder_is_the_one_that_was_saved(make_release, preset):
    release = make_release(preset)
    history = open_release(release.storage).history()
    opened = open_checkpoint(release.storage, history, *select_checkpoints(history, "init"))
    ids = torch.arange(20)[None]
    assert torch.equal(opened.decoder(ids), release.model(ids))
    assert not any(parameter.requires_grad for parameter in opened.decoder.parameters())
    assert opened.manifest == release.manifest
    assert opened.tokenizer is not None
    assert opened.tokenizer.decode(opened.tokenizer.encode("export again").ids) == "export again"
    assert opened.eos_id == opened.tokenizer.token_to_id("<|endoftext|>")


def test_dtype_is_the_one_asked_for(make_release):
    release = make_release("amber-tiny")
    history = open_release(release.storage).history()
    opened = open_checkpoint(release.storage, history, history.branch[0], dtype=torch.bfloat16)
    assert torch.equal(opened.decoder.embed.weight, release.model.embed.weight.bfloat16())


@pytest.mark.parametrize("file", ["model/model-00002*", "model/tokenizer.json", "manifest.json"])
def test_other_bytes_are_refused_by_the_checkpoints_name(make_release, file):
    release = make_release("amber-tiny")
    history = open_release(release.storage).history()
    path = next(release.folder.glob(f"checkpoints/*/*/{file}"))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"^checkpoint init \(checkpoints/step_000000000/a001\) does not verify: "):
        open_checkpoint(release.storage, history, history.branch[0])


@pytest.mark.parametrize("missing", ["model/model-00002*", "manifest.json"])
def test_missing_files_are_refused_too(make_release, missing):
    release = make_release("amber-tiny")
    history = open_release(release.storage).history()
    next(release.folder.glob(f"checkpoints/*/*/{missing}")).unlink()
    with pytest.raises(IntegrityError, match=r"checkpoint init .* does not verify"):
        open_checkpoint(release.storage, history, history.branch[0])


def test_selectors_by_step_label_entry_and_word(make_release):
    history = open_release(make_release("amber-tiny").storage).history()
    (init,) = history.branch
    for selector in ("0", "init", init.name, "latest", "all", "init, 0,all"):
        assert select_checkpoints(history, selector) == [init]
    with pytest.raises(InputError, match="there is no checkpoint 'ckpt_000'; there are init"):
        select_checkpoints(history, "init,ckpt_000")
    with pytest.raises(InputError, match="no checkpoint's entry is named 'sha256:00"):
        select_checkpoints(history, "sha256:" + "00" * 32)


def test_a_pruned_model_is_passed_over_or_named(make_release):
    release = make_release("amber-tiny")
    ledger = open_release(release.storage)
    (init,) = ledger.history().branch
    ledger.append(lambda _: Prune(step=0, checkpoint=init.name, parts=("model",), reason="room"))
    history = ledger.history()
    for selector in ("latest", "all"):
        with pytest.raises(InputError, match="no checkpoint yet that could be opened"):
            select_checkpoints(history, selector)
    with pytest.raises(InputError, match="the model of init was pruned"):
        open_checkpoint(release.storage, history, *select_checkpoints(history, "init"))
