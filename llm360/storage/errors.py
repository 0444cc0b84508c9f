"""The one error of storage that `llm360.errors` does not hold: a store that only its user can repair."""

from __future__ import annotations

from llm360.errors import InputError, StorageError


class StoreUnusableError(InputError, StorageError):
    """The store refuses for a cause that only the user can remove; trying again changes nothing (exit 2).

    `reason` is one of BucketMissing, CredentialsRefused, CertificateRefused, WrongRegion, NotWritable, NotReadable,
    DiskFull, NotADirectory, ReadOnly, ConditionalCreateUnsupported, InvalidKey, InvalidStorageUri.
    """
