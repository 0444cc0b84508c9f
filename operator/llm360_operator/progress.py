"""What the driver's `/status` says, as fields of the run's status."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from llm360_operator.seen import write_time

_SAME = (
    "attempt", "step", "totalSteps", "tokens", "loss", "tokensPerSecond", "mfu", "startTime", "ledgerHead",
)  # fmt: skip

_DIGITS = {"loss": 4, "tokensPerSecond": 1, "mfu": 4}
"""Decimals that a person reads; the exact numbers are in the release."""


def driver_progress(driver: Mapping[str, Any] | None, config_digest: str, now: datetime) -> dict[str, Any]:
    """The fields that the driver knows; nothing where it does not answer, or is the driver of another run.

    Args:
        driver: Its `/status`.
        config_digest: The run's; a driver that says another one is not ours.
        now: The time.
    """
    if driver is None or driver.get("configDigest") not in (None, config_digest):
        return {}
    found = {name: driver[name] for name in _SAME if driver.get(name) is not None}
    found |= {name: round(found[name], digits) for name, digits in _DIGITS.items() if name in found}
    checkpoints = driver.get("checkpoints")
    if checkpoints is not None:
        found["checkpoints"] = len(checkpoints)
    if checkpoints:
        found["latestCheckpoint"] = {key: checkpoints[-1][key] for key in ("step", "labels", "modelDigest")}
    # After a rewind it is an earlier one; a driver of an earlier version tells of published ones alone.
    newest = driver.get("lastCheckpointStep", checkpoints[-1]["step"] if checkpoints else None)
    if newest is not None:
        found["failedAtStep"] = newest
    left = driver.get("estimatedSecondsLeft")
    if left is not None:
        # To the minute: an estimate that moves every few seconds tells nobody anything.
        found["estimatedCompletion"] = write_time((now + timedelta(seconds=left)).replace(second=0, microsecond=0))
    return found


def progress_text(status: Mapping[str, Any]) -> str:
    """Where a run stands, for a person."""
    parts = [
        f"step {status.get('step', 0):,} of {status['totalSteps']:,}" if "totalSteps" in status else "at its start"
    ]
    if "loss" in status:
        parts.append(f"loss {status['loss']:.4f}")
    if "tokensPerSecond" in status:
        parts.append(f"{status['tokensPerSecond']:,.0f} tokens/s")
    return ", ".join(parts)
