"""How a decoder is spread over processes: meshes, FSDP2, recomputation, float8, first values, determinism."""

from llm360_trainer.parallel.determinism import set_deterministic
from llm360_trainer.parallel.fp8 import fp8_unavailable
from llm360_trainer.parallel.measure import choose_attention, with_measured_recomputation
from llm360_trainer.parallel.mesh import make_mesh
from llm360_trainer.parallel.parallelize import ParallelSettings, build_model, fill, fill_initial, parallelize

__all__ = [
    "ParallelSettings",
    "build_model",
    "choose_attention",
    "fill",
    "fill_initial",
    "fp8_unavailable",
    "make_mesh",
    "parallelize",
    "set_deterministic",
    "with_measured_recomputation",
]
