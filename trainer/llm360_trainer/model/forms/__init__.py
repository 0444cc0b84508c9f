"""The three forms in which published decoders lie on the Hugging Face hub: Llama, GPT-NeoX, CrystalCoder.

A form is a `config.json` and a way to name and lay out the tensors. Both directions are exact: tensors are renamed,
joined, split and transposed, never computed with, so that there and back gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llm360_trainer.model.config import DecoderConfig
from llm360_trainer.model.forms.base import Form
from llm360_trainer.model.forms.crystalcoder import CRYSTALCODER
from llm360_trainer.model.forms.gpt_neox import GPT_NEOX
from llm360_trainer.model.forms.llama import LLAMA

__all__ = ["FORMS", "Form", "decoder_of", "form_config", "form_of"]

FORMS = {form.name: form for form in (LLAMA, GPT_NEOX, CRYSTALCODER)}
"""By `model_type` of `config.json`."""


def form_of(config: DecoderConfig) -> Form | None:
    """The form that computes the decoder's function, if one does."""
    return next((form for form in FORMS.values() if form.fits(config)), None)


def form_config(
    form: Form, config: DecoderConfig, dtype: str, eos_id: int | None = None, bos_id: int | None = None
) -> dict[str, Any]:
    """The content of `config.json`.

    Args:
        form: One that fits.
        config: The architecture.
        dtype: Name of the stored tensors' torch dtype.
        eos_id: Token that ends a document, where the tokenizer has one.
        bos_id: Token that begins one, likewise.
    """
    special = {"bos_token_id": bos_id, "eos_token_id": eos_id}
    return form.config(config) | special | {"torch_dtype": dtype}


def decoder_of(hf: Mapping[str, Any]) -> tuple[Form, DecoderConfig]:
    """The form and the decoder that a `config.json` describes.

    Raises:
        ValueError: the model type is none of the forms, or a value is one that no decoder of ours has.
    """
    form = FORMS.get(str(hf.get("model_type")))
    if form is None:
        raise ValueError(f"model_type is {hf.get('model_type')!r}; supported are {', '.join(FORMS)}")
    try:
        return form, form.decoder(hf)
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing, which {form.name} needs") from error
