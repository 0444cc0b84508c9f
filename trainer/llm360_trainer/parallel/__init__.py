"""How a decoder is spread over processes: meshes, FSDP2, recomputation, first values, determinism."""

from llm360_trainer.parallel.determinism import set_deterministic
from llm360_trainer.parallel.mesh import make_mesh
from llm360_trainer.parallel.parallelize import ParallelSettings, build_model, fill, fill_initial, parallelize

__all__ = ["ParallelSettings", "build_model", "fill", "fill_initial", "make_mesh", "parallelize", "set_deterministic"]
