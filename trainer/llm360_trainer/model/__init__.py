"""One decoder for all presets, its initial values, loss, names on the Hugging Face hub and arithmetic cost.

Torch alone is imported here, so that a model runs and can be measured on a bare machine.
"""

from llm360_trainer.model.attention import BACKENDS, Backend, documents_of, unavailable
from llm360_trainer.model.config import DecoderConfig, Initializer, InitialValues
from llm360_trainer.model.decoder import Decoder
from llm360_trainer.model.flops import device_peak, flops_per_token, model_flops_utilization, num_parameters, peak_flops
from llm360_trainer.model.huggingface import from_hf_name, hf_config, layer_of, to_hf_name
from llm360_trainer.model.initialize import initial_tensor
from llm360_trainer.model.memory import is_out_of_memory
from llm360_trainer.model.section import decoder_from_section, model_section

__all__ = [
    "BACKENDS",
    "Backend",
    "Decoder",
    "DecoderConfig",
    "InitialValues",
    "Initializer",
    "decoder_from_section",
    "device_peak",
    "documents_of",
    "flops_per_token",
    "from_hf_name",
    "hf_config",
    "initial_tensor",
    "is_out_of_memory",
    "layer_of",
    "model_flops_utilization",
    "model_section",
    "num_parameters",
    "peak_flops",
    "to_hf_name",
    "unavailable",
]
