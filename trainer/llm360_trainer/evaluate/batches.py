"""How many sequences are computed at a time: as asked for, halved where memory does not suffice. Torch alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from llm360.errors import LLM360Error
from llm360_trainer.model import is_out_of_memory

Result = TypeVar("Result")


def _nothing(_: object) -> None:
    pass


@dataclass
class Batches:
    """The size of batches, and who hears how the work goes.

    Attributes:
        size: Sequences of one forward pass; only ever becomes smaller.
        say: Takes a sentence for a person.
        expect: Takes how many requests are about to be computed.
        done: Takes how many were finished since the last call.
    """

    size: int
    say: Callable[[str], None] = _nothing
    expect: Callable[[int], None] = _nothing
    done: Callable[[int], None] = _nothing

    def attempt(self, num_sequences: int, compute: Callable[[], Result]) -> Result | None:
        """What `compute` returns; None where memory did not suffice, and the next batch is to be half as large.

        Raises:
            LLM360Error: memory does not suffice for a single sequence.
        """
        try:
            return compute()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if num_sequences == 1:
                raise LLM360Error(
                    "memory does not suffice for one sequence; take a device that has more, or --dtype bfloat16",
                    reason="OutOfMemory",
                ) from error
        # Outside of the handler: the error's traceback held the tensors that are to be given back.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self.size = num_sequences // 2
        self.say(f"memory does not suffice for {num_sequences} sequences at a time; going on with {self.size}")
        return None
