"""`spec.recovery`: what happens when something fails."""

from __future__ import annotations

from typing import Literal

from llm360.spec.base import Section, setting


class Recovery(Section):
    """Attempts and non-finite numbers."""

    max_attempts: int = setting(
        "Attempts without a new checkpoint after which the run gives up (exit 4).", unit="attempts", ge=1, le=1000
    )
    backoff_seconds: int = setting("Pause before an attempt that follows a failed one.", unit="seconds", ge=0, le=3600)
    stop_seconds: int = setting(
        "How long a run that is asked to stop (suspended, changed, interrupted) may take to checkpoint the steps since"
        " its last checkpoint. 0: it stops at once, and they are made again.",
        unit="seconds",
        ge=0,
        le=3600,
    )
    non_finite: Literal["skip", "rewind", "halt"] = setting(
        "On a loss or gradient that is not finite: skip the step's update, rewind to the last checkpoint and leave the"
        " step out, or halt. Each is recorded in the ledger."
    )
