"""Every error that a user of llm360 may meet.

LLM360Error                     exit 1   something failed; the sentence says what and what to do
├── InputError                  exit 2   the user's input cannot be used; trying again changes nothing
│   └── SpecError               exit 2   one or more fields of a specification are wrong (`.problems`)
├── FencedError                 exit 3   a newer attempt owns the run
├── AttemptsExhaustedError      exit 4   `recovery` allows no further attempt
├── StorageError                exit 1   an object store or file system answered with a failure
│   ├── ObjectNotFoundError     exit 1   the key does not exist
│   ├── ObjectExistsError       exit 1   a conditional create found the key taken
│   └── StorageUnavailableError exit 1   no answer after all retries; later it may work
├── StoreUnusableError          exit 2   a store that only its user can repair; InputError and StorageError both
└── IntegrityError              exit 1   bytes are not those that the ledger or a manifest names

A message says what is wrong, the value found, what is allowed and what to do. `reason` is the CamelCase
word that conditions, events and the last line on standard error carry.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class LLM360Error(Exception):
    """Base of all errors raised on purpose.

    Args:
        message: One sentence for a person: what is wrong, the value found, what is allowed, what to do.
        reason: CamelCase word for machines; the class's default where not given.
    """

    exit_code = 1
    default_reason = "Failed"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason


class InputError(LLM360Error):
    """The input cannot be used; a retry would fail in the same way."""

    exit_code = 2
    default_reason = "InvalidInput"


class SpecError(InputError):
    """Fields of a specification are wrong.

    Args:
        problems: One `path: sentence` per wrong field, in the order of the specification.
    """

    default_reason = "InvalidSpec"

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class FencedError(LLM360Error):
    """A newer attempt has claimed the run; this one must stop and write nothing more."""

    exit_code = 3
    default_reason = "Fenced"


class AttemptsExhaustedError(LLM360Error):
    """As many attempts as `recovery` allows ended without a new checkpoint."""

    exit_code = 4
    default_reason = "AttemptsExhausted"


class StorageError(LLM360Error):
    """An object store or a file system answered with a failure."""

    default_reason = "StorageFailed"


class ObjectNotFoundError(StorageError):
    """The key does not exist."""

    default_reason = "ObjectNotFound"


class ObjectExistsError(StorageError):
    """A conditional create found the key taken."""

    default_reason = "ObjectExists"


class StorageUnavailableError(StorageError):
    """No usable answer after all retries: the store is down, or out of reach."""

    default_reason = "StorageUnavailable"


class StoreUnusableError(InputError, StorageError):
    """The store refuses for a cause that only the user can remove; trying again changes nothing.

    `reason` is one of BucketMissing, CredentialsRefused, CertificateRefused, WrongRegion, NotWritable, NotReadable,
    DiskFull, NotADirectory, ReadOnly, ConditionalCreateUnsupported, InvalidKey, InvalidStorageUri.
    """


class IntegrityError(LLM360Error):
    """Bytes differ from what the ledger or a manifest names; they are never used."""

    default_reason = "IntegrityFailed"


def nearest(word: str, names: Sequence[str]) -> str:
    """` (did you mean 'X'?)` for the closest of the names, or nothing: the end of a sentence about a mistyped one."""
    by_lower = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean '{by_lower[matches[0]]}'?)" if matches else ""
