"""The words that a release says about itself: its licence, its authors, what it is (`spec.release`)."""

from __future__ import annotations

import json

from pydantic import ValidationError

from llm360.release.history import History
from llm360.spec.release import Release

NO_WORDS = Release(authors=())


def stated_words(history: History) -> Release:
    """What the newest attempt recorded; they may change until the run is complete.

    Args:
        history: What the ledger says.

    Returns:
        The words; none where nothing was stated, or what was recorded is no such section.
    """
    recorded = history.attempts[-1].operations.get("release") if history.attempts else None
    if not isinstance(recorded, dict):
        return NO_WORDS
    try:
        return Release.model_validate_json(json.dumps({"authors": []} | recorded))
    except ValidationError:
        return NO_WORDS  # no check of the release looks into an attempt's settings
