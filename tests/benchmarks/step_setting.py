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

LEAST_GIB = 2.0
"""A budget is not raised by less."""


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
    prefetch: int = 0


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
    least_memory: Callable[[Setting], int] = lambda _setting: 0,
) -> Setting:
    """The fastest setting: every micro batch that divides the batch, the largest first, with what recomputation fits.

    More recomputation at the same micro batch only adds work, so the least that fits is tried. Where that is not none,
    what is dear is kept too, in a budget that grows by what each attempt left free, with and without kept weights.

    Args:
        base: What the sweep does not vary.
        batch_rows: Sequences of a step.
        memory: Bytes of the device.
        try_out: Measures a setting: `seconds` and `memory_bytes`; without `seconds` it did not fit.
        is_late: Whether to be content with what was tried.
        least_memory: Bytes that a setting needs for certain; what needs more than there are is not tried.

    Returns:
        The fastest, or the base where none fits.
    """
    seconds: dict[Setting, float] = {}
    left: dict[Setting, float | None] = {}

    def free_gib(setting: Setting) -> float | None:
        """Memory that the setting leaves; None where it does not fit, or there is no time to see."""
        if setting not in left:
            if is_late() or least_memory(setting) > memory:
                return None
            found = try_out(setting)
            left[setting] = None
            if "seconds" in found:
                seconds[setting] = found["seconds"]
                left[setting] = (memory - found["memory_bytes"]) / 2**30
        return left[setting]

    def keep_more(full: Setting) -> None:
        """From full recomputation on, keep as much as fits."""
        budget, free = 0.0, free_gib(full)
        while free is not None and free - SPARE_GIB >= LEAST_GIB:
            budget = round(budget + free - SPARE_GIB, 1)
            free = free_gib(replace(full, checkpointing="measured", activation_gib=budget))

    for micro_batch in (rows for rows in range(batch_rows, 0, -1) if batch_rows % rows == 0):
        settings = [
            replace(base, micro_batch=micro_batch, checkpointing=checkpointing, reshard=reshard, activation_gib=0.0)
            for checkpointing, reshard in itertools.product(("none", "selective", "full"), (False, True))
        ]
        fitting = next((setting for setting in settings if free_gib(setting) is not None), None)
        if fitting is not None and fitting.checkpointing != "none":
            for full in settings[-2:]:
                keep_more(full)
    return min(seconds, key=lambda setting: seconds[setting], default=base)
