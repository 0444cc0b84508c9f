"""Where a run stands, as text: what `llm360 status` prints, and the summary at the end of a run."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from llm360.release.history import History
from llm360.report.facts import RunFacts, read_facts, read_stage_data
from llm360.report.text import address_of, aligned, counted, duration, short_count, utc
from llm360.storage import Storage


def status_text(facts: RunFacts, now: datetime) -> str:
    """A line per fact; facts that no entry states yet are left out.

    Args:
        facts: Where the run stands.
        now: The present time, for how long ago things were.
    """
    silent = duration((now - facts.last_entry_time).total_seconds())
    lines = [("run", facts.name + (f" (preset {facts.preset})" if facts.preset else ""))]
    lines.append(("phase", _phase_text(facts, silent)))
    percent = f" ({100 * facts.step // facts.total_steps}%)" if facts.total_steps else ""
    lines.append(("step", _of_total(facts.step, facts.total_steps, "{:,}".format) + percent))
    lines.append(("tokens", _of_total(facts.tokens, facts.total_tokens, short_count)))
    if facts.loss is not None:
        mean = (
            f" (mean of the last {counted(facts.recent_steps, 'step')} {facts.recent_loss:.4f})"
            if facts.recent_loss is not None
            else ""
        )
        lines.append(("loss", f"{facts.loss:.4f}{mean}"))
    if facts.tokens_per_second is not None:
        mfu = f", MFU {100 * facts.mfu:.1f}%" if facts.mfu is not None else ""
        lines.append(("speed", f"{short_count(facts.tokens_per_second)} tokens/s{mfu}"))
    last = f", the last one {facts.last_checkpoint}" if facts.last_checkpoint else ""
    lines.append(("checkpoints", f"{facts.checkpoints:,}{last}"))
    lines.append(("attempts", f"{facts.attempts:,}"))
    if facts.evaluations:
        lines.append(("evaluations", f"{facts.evaluations:,}"))
    # One that has passed belongs to a run that is slower than it was, or has stopped.
    if facts.estimated_completion is not None and facts.estimated_completion > now:
        left = duration((facts.estimated_completion - now).total_seconds())
        lines.append(("done in", f"{left} ({utc(facts.estimated_completion)}, at the recent rate)"))
    lines.append(("last entry", f"{facts.head_seq}, {utc(facts.last_entry_time)}, {silent} ago"))
    lines.append(("head", facts.head_digest))
    return aligned(lines)


def _phase_text(facts: RunFacts, silent: str) -> str:
    if facts.phase == "not progressing":
        return f"not progressing: not complete, and nothing was committed for {silent}; start it again to go on"
    return facts.phase


def _of_total(value: int, total: int | None, text: Callable[[int], str]) -> str:
    return text(value) if total is None else f"{text(value)} of {text(total)}"


def run_summary(
    storage: Storage, history: History, now: datetime, *, report: str | None = None, verdict: str | None = None
) -> str:
    """The outcome of a run in a few lines.

    Args:
        storage: The release.
        history: What its ledger says; not empty.
        now: The present time.
        report: Where the report was written, if it was.
        verdict: What verification found, if it ran.

    Raises:
        ObjectNotFoundError, IntegrityError: what the ledger names is missing or changed.
    """
    facts = read_facts(storage, history, now)
    lines = [
        ("run", f"{facts.name}, {facts.phase}"),
        ("steps", _of_total(facts.step, facts.total_steps, "{:,}".format)),
        ("tokens", short_count(facts.tokens)),
    ]
    if facts.recent_loss is not None:
        lines.append(("loss", _loss_text(storage, history, facts.recent_loss, facts.recent_steps)))
    published = sum(checkpoint.body.published for checkpoint in history.branch)
    lines += [
        (
            "checkpoints",
            f"{facts.checkpoints:,} ({published:,} published), the last one {facts.last_checkpoint or 'none'}",
        ),
        ("attempts", f"{facts.attempts:,} ({counted(max(0, facts.attempts - 1), 'restart')})"),
        ("ledger head", f"{facts.head_digest} (entry {facts.head_seq})"),
        ("release", address_of(facts.uri)),
    ]
    lines += [(name, text) for name, text in (("verified", verdict), ("report", report)) if text is not None]
    lines.append(("check it", f"llm360 verify {address_of(facts.uri)}"))
    return aligned(lines)


def _loss_text(storage: Storage, history: History, loss: float, steps: int) -> str:
    """The loss beside that of the unigram distribution, where the last stage's manifest can be read."""
    manifest = read_stage_data(storage, history.stages[-1]) if history.stages else ""
    if isinstance(manifest, str):
        return f"{loss:.4f}"
    entropy = manifest.unigram_entropy
    side = "below" if loss < entropy else "above"
    mean = f"{loss:.4f} (last {counted(steps, 'step')})"
    return f"{mean}, {abs(entropy - loss):.4f} {side} the unigram entropy {entropy:.4f}"
