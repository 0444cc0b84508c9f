"""The status that `/status` shows; its fields are named as in the resource's status."""

from __future__ import annotations

import math
from typing import Any

from llm360.release.history import History
from llm360.release.metrics import StepRecord
from llm360_trainer.driver.messages import Outcome


def run_status(
    run: str, total_steps: int, history: History, record: StepRecord | None, outcome: Outcome | None, failure: str
) -> dict[str, Any]:
    """Where a run stands, as a JSON value.

    Args:
        run: Its name.
        total_steps: Steps of the whole run.
        history: What the ledger said when it was last read.
        record: The newest step's record, committed or not.
        outcome: How the run ended for this driver, if it has.
        failure: What the last failed worker said.
    """
    point, head = history.resume_point(), history.head
    return {
        "run": run,
        "phase": "Training" if outcome is None else "Succeeded" if outcome.exit_code == 0 else "Stopped",
        "reason": outcome.reason if outcome else "",
        "message": outcome.message if outcome else failure,
        "configDigest": history.config_digest,
        "attempt": history.attempt,
        "step": record.step if record else point.step,
        "totalSteps": total_steps,
        "tokens": record.tokens if record else point.tokens,
        "loss": record.loss if record and math.isfinite(record.loss) else None,
        "tokensPerSecond": record.tokens_per_second if record else None,
        "mfu": record.mfu if record else None,
        "checkpoints": [
            {"step": c.step, "labels": list(c.body.labels), "modelDigest": c.body.digests.model, "entry": c.name}
            for c in history.branch
            if c.body.published
        ],
        "startTime": history.entries[0].time if head else None,
        "estimatedSecondsLeft": (total_steps - record.step) * record.step_seconds if record else None,
        "ledgerHead": head.name if head else None,
        "ledgerSequence": head.seq if head else None,
    }
