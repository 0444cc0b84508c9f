"""The model folder of a checkpoint is one that Hugging Face `transformers` opens."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch

from llm360.storage import open_storage
from llm360_trainer.checkpoint.writer import CheckpointWriter
from llm360_trainer.model import Decoder, DecoderConfig, hf_config, initial_tensor, to_hf_name
from llm360_trainer.optim import OptimizerSettings, build_optimizer


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_gives_the_same_logits(
    tmp_path: Path, tiny_config: dict[str, int], tied: bool, dtype: str
) -> None:
    config = DecoderConfig(**tiny_config, tied_embeddings=tied)
    model = Decoder(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_tensor(name, tuple(parameter.shape), config, 7))
            parameter.copy_(parameter.to(getattr(torch, dtype)))  # as stored, so that fp32 compares exactly
    writer = CheckpointWriter(
        open_storage(str(tmp_path)),
        rename=to_hf_name,
        model_dtype=getattr(torch, dtype),
        model_files={"config.json": json.dumps(hf_config(config, dtype)).encode()},
    )
    writer.start(0, "checkpoint", model, build_optimizer(model, OptimizerSettings()))
    writer.wait(60)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, about its dependencies
        from transformers import LlamaForCausalLM

        theirs, loading = LlamaForCausalLM.from_pretrained(
            tmp_path / "checkpoint" / "model", dtype=torch.float32, output_loading_info=True
        )
    assert not any(loading.values()), loading
    ids = torch.arange(12).reshape(1, 12) % config.vocab_size
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, model(ids), atol=1e-5, rtol=0)
