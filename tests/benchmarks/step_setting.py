"""How a step of the benchmark is run, and which settings a sweep tries."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

SPARE_GIB = 6.0
"""Memory that a sweep leaves to what is not foreseen: compiled blocks' own buffers, fragments."""


@dataclass(frozen=True)
class Setting:
    """How a step is run; each is a flag of the command line."""

    micro_batch: int = 1
    precision: str = "bf16"
    attention: str = "auto"
    compile: bool = False
    checkpointing: str = "none"
    activation_gib: float = 0.0
    reshard: bool = False
    documents: bool = False


def given_setting(given: Mapping[str, Any], like: Path | None) -> Setting:
    """What was given, over the setting of an earlier result, over the defaults.

    Args:
        given: Value of each flag; None: not given.
        like: An earlier result of `--json`.

    Raises:
        OSError: There is no such file.
        ValueError: It holds no such result.
    """
    setting = Setting()
    if like is not None:
        try:
            setting = Setting(**json.loads(like.read_text())["ours"]["setting"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"no result of this benchmark: {error}") from None
    named = {field.name: given[field.name] for field in fields(Setting)}
    return replace(setting, **{name: value for name, value in named.items() if value is not None})


def sweep(
    base: Setting,
    batch_rows: int,
    memory: int,
    try_out: Callable[[Setting], Mapping[str, Any]],
    is_late: Callable[[], bool] = lambda: False,
) -> Setting:
    """The fastest setting: every micro batch that divides the batch, each with the least recomputation that fits.

    More recomputation at the same micro batch only adds work, and what did not fit once does not fit with more rows:
    neither is tried. Where not everything fits, what is dear is kept in the memory that recomputation left free.

    Args:
        base: What the sweep does not vary.
        batch_rows: Sequences of a step.
        memory: Bytes of the device.
        try_out: Measures a setting: `seconds` and `memory_bytes`; without `seconds` it did not fit.
        is_late: Whether to be content with what was tried.

    Returns:
        The fastest, or the base where none fits.
    """
    seconds: dict[Setting, float] = {}
    too_large: set[tuple[str, bool]] = set()

    def free_gib(setting: Setting) -> float | None:
        """Memory that the setting leaves; None where it does not fit."""
        found = try_out(setting)
        if "seconds" not in found:
            return None
        seconds[setting] = found["seconds"]
        return (memory - found["memory_bytes"]) / 2**30

    for micro_batch in (rows for rows in range(1, batch_rows + 1) if batch_rows % rows == 0):
        for kind in itertools.product(("none", "selective", "full"), (False, True)):
            if kind in too_large or is_late():
                continue
            checkpointing, reshard = kind
            setting = replace(base, micro_batch=micro_batch, checkpointing=checkpointing, reshard=reshard)
            left = free_gib(setting)
            if left is None:
                too_large.add(kind)
                continue
            if checkpointing != "none" and left > SPARE_GIB and not is_late():
                free_gib(replace(setting, checkpointing="measured", activation_gib=round(left - SPARE_GIB, 1)))
            break
    return min(seconds, key=lambda setting: seconds[setting], default=base)
