"""An LLM360Run's status as a person wants it: how far, how fast, what is wrong and what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from llm360.report.text import aligned, counted, duration, short_count, utc
from llm360.spec.status import Phase

BAR_COLUMNS = 30
MAX_SCORES = 8
"""Scores in a line; all are in the release, and its report draws them."""
SILENT_SECONDS = 300.0
"""The operator writes a training run's status at least every few steps: nothing for so long, and it is not there."""
OPERATOR = "see that it runs: kubectl get pods -A -l app.kubernetes.io/name=llm360-operator"

Kind = Literal["stuck", "failed", "invalid", "unknown", "recovering", "unseen"]

TITLES: dict[Kind, str] = {
    "stuck": "nothing moves until somebody acts",
    "failed": "the run has failed",
    "invalid": "the specification cannot be followed",
    "unknown": "it may or may not be progressing",
    "recovering": "something failed; it comes back by itself",
    "unseen": "the operator has not seen it",
}

AT_REST: tuple[Phase, ...] = ("Queued", "Suspending", "Suspended", "Succeeded")
"""Phases in which nothing progresses, and nothing should."""

QUIET = ("Training", "Preparing")
"""Reasons whose sentence the other lines say already."""


@dataclass(frozen=True)
class Problem:
    """What is wrong.

    Attributes:
        kind: Who has to act; a title belongs to each.
        reason: One word; the runbook of conditions has a line for each.
        message: What is the case and what to do.
        since: When it began, where that is known.
    """

    kind: Kind
    reason: str
    message: str
    since: datetime | None = None


def problem(run: Mapping[str, Any], now: datetime) -> Problem | None:
    """What is wrong with a run, by its own conditions and by how old they are."""
    status, metadata = run.get("status") or {}, run["metadata"]
    if "phase" not in status:
        return Problem("unseen", "NotSeen", f"no operator has taken the run up; {OPERATOR}")
    ready, progressing = _condition(status, "Ready"), _condition(status, "Progressing")
    found = _kind(status["phase"], ready.get("status"), progressing.get("status"))
    if found is not None:
        # What recovers has been progressing all along; when it ceased to be ready is when it failed.
        decisive = progressing if found in ("stuck", "unknown") else ready
        since = _time(decisive.get("lastTransitionTime"))
        return Problem(found, ready.get("reason", ""), ready.get("message", ""), since)
    if status.get("observedGeneration") != metadata.get("generation"):
        return Problem("unseen", "ChangeNotSeen", f"the object was changed, and no operator has read that; {OPERATOR}")
    written = status_written(run)
    if status["phase"] == "Training" and written and (now - written).total_seconds() > SILENT_SECONDS:
        return Problem(
            "unknown", "OperatorSilent", f"the status is old: no operator has written it; {OPERATOR}", written
        )
    return None


def _kind(phase: Phase, ready: str | None, progressing: str | None) -> Kind | None:
    if phase == "Failed":
        return "failed"
    if progressing == "False" and phase not in AT_REST:
        return "stuck"
    if progressing == "Unknown":
        return "unknown"
    if ready == "False" and phase in ("Preparing", "Training"):
        return "invalid"
    return "recovering" if phase == "Recovering" else None


def status_written(run: Mapping[str, Any]) -> datetime | None:
    """When the status was last changed, as the API server noted it."""
    times = [
        field["time"]
        for field in run["metadata"].get("managedFields") or []
        if field.get("subresource") == "status" and "time" in field
    ]
    return _time(max(times, default=None))


def status_text(run: Mapping[str, Any], now: datetime) -> str:
    """A line per fact that is known, and below them what is wrong."""
    metadata, spec, status = run["metadata"], run.get("spec") or {}, run.get("status") or {}
    preset = f" (preset {spec['preset']})" if "preset" in spec else ""
    wrong, storage = problem(run, now), spec.get("storage") or {}
    lines = [
        ("run", f"{metadata['name']}{preset} in namespace {metadata['namespace']}"),
        ("phase", _phase(status, with_message=wrong is None)),
        *_progress(status),
        *_history(status, now),
    ]
    if "rayCluster" in status:
        lines.append(("cluster", f"RayCluster {status['rayCluster']}"))
    if "uri" in storage:
        lines.append(("release", storage["uri"] + (f" at {storage['endpoint']}" if "endpoint" in storage else "")))
    if "ledgerHead" in status:
        lines.append(("ledger head", status["ledgerHead"]))
    written = status_written(run)
    if written is not None:
        lines.append(("as of", f"{duration((now - written).total_seconds())} ago"))
    return aligned(lines) + (f"\n\n{_problem_text(wrong, now)}" if wrong else "")


def _phase(status: Mapping[str, Any], *, with_message: bool) -> str:
    phase, ready = str(status.get("phase", "not seen by an operator yet")), _condition(status, "Ready")
    if not with_message or not ready or ready["reason"] in QUIET:
        return phase
    return f"{phase} ({ready['reason']}): {ready['message']}"


def _progress(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if status.get("totalSteps"):
        step, total = status.get("step", 0), status["totalSteps"]
        done = BAR_COLUMNS * step // total
        # Rounded down: 100% is said of a finished run only.
        bar = "#" * done + "-" * (BAR_COLUMNS - done)
        lines.append(("progress", f"[{bar}] {100 * step // total}%, step {step:,} of {total:,}"))
    if "tokens" in status:
        lines.append(("tokens", short_count(status["tokens"])))
    if "loss" in status:
        lines.append(("loss", f"{status['loss']:.4f}"))
    if "tokensPerSecond" in status:
        mfu = f", MFU {100 * status['mfu']:.1f}%" if "mfu" in status else ""
        lines.append(("speed", f"{short_count(status['tokensPerSecond'])} tokens/s{mfu}"))
    return lines


def _history(status: Mapping[str, Any], now: datetime) -> list[tuple[str, str]]:
    lines = []
    if "checkpoints" in status:
        newest = status.get("latestCheckpoint") or {}
        labels = ", ".join(newest.get("labels") or [])
        last = f", the last one {labels}{' at ' if labels else ''}step {newest['step']:,}" if newest else ""
        lines.append(("checkpoints", f"{status['checkpoints']:,}{last}"))
    if "submission" in status:
        failures = status.get("failures", 0)
        ended = f"; {counted(failures, 'job')} ended badly since the last checkpoint" if failures else ""
        jobs = counted(status["submission"], "job")
        lines.append(("attempts", f"{status.get('attempt', 0):,}, in {jobs}{ended}"))
    lines += _evaluation(status)
    end = _time(status.get("estimatedCompletion"))
    if end is not None:
        lines.append(("done in", f"{duration((end - now).total_seconds())} ({utc(end)}, at the last step's rate)"))
    return lines


def _evaluation(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How far evaluation is, the newest scores, and what is in its way."""
    evaluation, said = status.get("evaluation") or {}, _condition(status, "Evaluated")
    if "due" not in evaluation:
        return []
    counts = [f"{evaluation[name]:,} {name}" for name in ("running", "waiting", "failed") if evaluation.get(name)]
    where = f"{evaluation['done']:,} of {counted(evaluation['due'], 'checkpoint')}"
    lines = [("evaluated", ", ".join([where, *counts]))]
    if evaluation.get("scores"):
        scores = [f"{s['task']} {s['metric']} {s['value']:.4g}" for s in evaluation["scores"][:MAX_SCORES]]
        left = len(evaluation["scores"]) - len(scores)
        lines.append(("scores", ", ".join([*scores, *([f"and {left:,} more"] if left else [])])))
    if said.get("status") == "False":
        lines.append(("evaluation", f"{said['reason']}: {said['message']}"))
    return lines


def _problem_text(wrong: Problem, now: datetime) -> str:
    since = f", for {duration((now - wrong.since).total_seconds())}" if wrong.since else ""
    return f"{wrong.reason}: {TITLES[wrong.kind]}{since}\n  {wrong.message}"


def status_json(run: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """The status as it stands in the object, with the run's name and place and with what is wrong."""
    metadata, spec = run["metadata"], run.get("spec") or {}
    wrong = problem(run, now)
    return {
        "name": metadata["name"],
        "namespace": metadata["namespace"],
        "uri": (spec.get("storage") or {}).get("uri"),
        "suspend": spec.get("suspend", False),
        **(run.get("status") or {}),
        "problem": {k: v for k, v in asdict(wrong).items() if k != "since"} if wrong else None,
    }


def _condition(status: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    return next((entry for entry in status.get("conditions") or [] if entry["type"] == kind), {})


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC) if text else None
