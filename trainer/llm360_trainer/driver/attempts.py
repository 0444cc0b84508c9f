"""How many worker groups in a row have ended without a new checkpoint, and why the last one did."""

from __future__ import annotations

from llm360.errors import AttemptsExhaustedError
from llm360.report.text import counted


class Attempts:
    """Counts what `recovery.maxAttempts` bounds: groups that claimed an attempt, and those that died before they could.

    Args:
        most: `recovery.maxAttempts`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._number = 0
        self._has_claimed = False
        self._has_said_why = False
        self.is_training = False
        """Whether the group of the last claimed attempt is at work."""
        self.failure = ""
        """What the last failed worker said, or what is known of its end."""

    def claimed(self) -> None:
        """The group that has just started has claimed an attempt."""
        self._number += 1
        self._has_claimed = self.is_training = True

    def told(self, message: str) -> None:
        """A rank of the group says why it fails."""
        self._has_said_why = True
        self.failure = message

    def group_failed(self) -> bool:
        """The group has ended badly; whether none of its ranks has said why."""
        self.is_training = False
        is_unexplained, self._has_said_why = not self._has_said_why, False
        return is_unexplained

    def count_group(self) -> bool:
        """Count the group that has ended, unless it was counted when it claimed an attempt; whether it was counted."""
        is_new, self._has_claimed = not self._has_claimed, False
        self._number += is_new
        return is_new

    def checkpointed(self) -> None:
        """A new checkpoint is committed: whatever failed before has not been in vain."""
        self._number = 0

    def check(self) -> None:
        """See that a further group may train.

        Raises:
            AttemptsExhaustedError: there were as many as are allowed.
        """
        if self._number >= self._most:
            raise AttemptsExhaustedError(
                f"{counted(self._number, 'attempt')} ended without a new checkpoint, as many as recovery.maxAttempts"
                f" allows; the last failure was: {self.failure or 'a worker process died'}"
            )
