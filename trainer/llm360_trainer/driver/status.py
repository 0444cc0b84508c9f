"""The status that `/status` shows; its fields are named as in the resource's status."""

from __future__ import annotations

import math
from typing import Any

from llm360.release.history import History
from llm360.release.metrics import StepRecord
from llm360_trainer.driver.attempts import Attempts
from llm360_trainer.driver.messages import Outcome


def run_status(
    run: str, total_steps: int, history: History, record: StepRecord | None, outcome: Outcome | None, attempts: Attempts
) -> dict[str, Any]:
    """Where a run stands, as a JSON value.

    Args:
        run: Its name.
        total_steps: Steps of the whole run.
        history: What the ledger said when it was last read.
        record: The newest step's record, committed or not.
        outcome: How the run ended for this driver, if it has.
        attempts: What is known of its worker groups.
    """
    point, head, newest = history.resume_point(), history.head, history.latest_checkpoint
    return {
        "run": run,
        "phase": _phase(history, outcome, attempts),
        "reason": outcome.reason if outcome else "",
        "message": outcome.message if outcome else attempts.failure,
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
        # Of any kind, resume checkpoints too: by it the operator sees that a run gets on between two restarts.
        **({"lastCheckpointStep": newest.step} if newest else {}),
        "startTime": history.entries[0].time if head else None,
        "estimatedSecondsLeft": (total_steps - record.step) * record.step_seconds if record else None,
        "ledgerHead": head.name if head else None,
        "ledgerSequence": head.seq if head else None,
    }


def _phase(history: History, outcome: Outcome | None, attempts: Attempts) -> str:
    """Training only while a group is at work: before its first, and between two, nothing advances."""
    if outcome is not None:
        return "Succeeded" if outcome.exit_code == 0 else "Stopped"
    return "Training" if attempts.is_training else "Recovering" if history.attempt else "Starting"
