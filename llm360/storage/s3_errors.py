"""What an S3 server or its client library says, as one sentence of ours: who must do what, or later it may work."""

from __future__ import annotations

import time
from typing import NamedTuple

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from llm360.errors import (
    IntegrityError,
    LLM360Error,
    ObjectExistsError,
    ObjectNotFoundError,
    StorageError,
    StoreUnusableError,
)
from llm360.errors import StorageUnavailableError as Unavailable

REFUSED = {
    "403",
    "401",
    "AccessDenied",
    "AccountProblem",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
# Refusals of credentials that were good: renewed late by whoever issues them, or a clock that is being set.
PASSING = {"ExpiredToken", "RequestTimeTooSkewed", "TokenRefreshRequired"}
PATIENCE_SECONDS = 15 * 60.0
"""How long a store that has worked may refuse in that way before it counts as the user's to repair."""
MISSING = {"404", "NoSuchKey", "NotFound"}
TAKEN = {"412", "PreconditionFailed"}
FULL = {"507", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
DAMAGED = {"BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
ELSEWHERE = {"301", "307", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect"}
# Two conditional writes met; S3 asks both to try again.
CONFLICT = {"409", "ConditionalRequestConflict", "OperationAborted"}
BUSY = {"429", "InternalError", "RequestTimeout", "ServiceUnavailable", "SlowDown", "Throttling", "TooManyRequests"}
WRITES = {
    "CompleteMultipartUpload",
    "CreateMultipartUpload",
    "DeleteObject",
    "PutObject",
    "UploadPart",
}


class ConflictError(Unavailable):
    """Another conditional write of the same key is under way."""


class DamagedError(IntegrityError):
    """The bytes of a write arrived damaged; nothing of it was stored."""


class UploadGoneError(StorageError):
    """The multipart upload is unknown: aborted, or completed by a request whose answer was lost."""


class NotImplementedByStoreError(StorageError):
    """The server knows the request but not this use of it."""


class Standing:
    """What this process knows of a store: whether it has ever worked here, and since when it refuses again."""

    def __init__(self) -> None:
        self._has_worked = False
        self._refused_since: float | None = None

    def worked(self) -> None:
        """A request has just succeeded."""
        self._has_worked, self._refused_since = True, None

    def may_pass(self) -> bool:
        """Whether a refusal is waited for: the store took these credentials before, and has not refused them long."""
        now = time.monotonic()
        if self._refused_since is None:
            self._refused_since = now
        return self._has_worked and now - self._refused_since < PATIENCE_SECONDS


class Place(NamedTuple):
    """What a request was about, for the sentence."""

    uri: str  # the object, or the store where it was about no object
    bucket: str
    endpoint: str
    seconds: float  # since the request began, all attempts included
    standing: Standing | None = None  # None: nothing was asked of it yet


def explain(error: BotoCoreError | ClientError, place: Place) -> LLM360Error:
    """The error of ours for one of the client library's."""
    if isinstance(error, ClientError):
        return _explain_answer(error, place)
    return _explain_silence(error, place)


def _explain_answer(error: ClientError, place: Place) -> LLM360Error:
    """The server answered, with an error."""
    said = error.response.get("Error", {})
    code = str(said.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    names = {code, str(status)}
    text = f"{said.get('Message') or 'no message'} ({code})"
    doing = f"{error.operation_name} of {place.uri}"

    if code == "NoSuchBucket" or (error.operation_name == "HeadBucket" and names & MISSING):
        return StoreUnusableError(
            f"there is no bucket '{place.bucket}' at {place.endpoint}; create it or correct the address {place.uri}",
            reason="BucketMissing",
        )
    if code == "NoSuchUpload":
        return UploadGoneError(f"{place.endpoint} no longer knows the upload of {place.uri}; begin it again")
    if names & MISSING:
        return ObjectNotFoundError(f"{place.uri} does not exist")
    if names & TAKEN:
        return ObjectExistsError(f"{place.uri} exists already, and only its first writer may write it")
    if names & FULL:
        return StoreUnusableError(
            f"{place.endpoint} has no space left for {place.uri}: {text}; free some or raise the quota",
            reason="DiskFull",
        )
    if names & REFUSED:
        return _refused(error, code, text, place)
    if names & ELSEWHERE:
        return StoreUnusableError(
            f"bucket '{place.bucket}' belongs to another region or endpoint than {place.endpoint}: {text};"
            " set AWS_REGION or AWS_ENDPOINT_URL accordingly",
            reason="WrongRegion",
        )
    if code in DAMAGED:
        return DamagedError(f"{place.endpoint} received other bytes than were sent for {place.uri}: {text}; try again")
    return _unexpected(names, doing, text, place)


def _refused(error: ClientError, code: str, text: str, place: Place) -> StorageError:
    if code == "AccessDenied" and error.operation_name in WRITES:
        return StoreUnusableError(
            f"{place.uri} is not writable with these credentials: {place.endpoint} says {text};"
            " give them the right to put and delete objects there",
            reason="NotWritable",
        )
    hint = "set the clock of this machine" if code == "RequestTimeTooSkewed" else "check AWS_ACCESS_KEY_ID and the rest"
    if code in PASSING and _may_pass(place):
        return Unavailable(
            f"{place.endpoint} no longer takes the credentials for bucket '{place.bucket}': {text};"
            f" if that lasts, {hint}"
        )
    return StoreUnusableError(
        f"{place.endpoint} refuses the credentials for bucket '{place.bucket}': {text}; {hint}",
        reason="CredentialsRefused",
    )


def _may_pass(place: Place) -> bool:
    return place.standing is not None and place.standing.may_pass()


def _unexpected(names: set[str], doing: str, text: str, place: Place) -> StorageError:
    if "501" in names or "NotImplemented" in names:
        return NotImplementedByStoreError(f"{place.endpoint} does not offer {doing}: {text}")
    if names & {"KeyTooLongError", "InvalidBucketName", "InvalidURI"}:
        return StoreUnusableError(f"{place.endpoint} refuses the name {place.uri}: {text}", reason="InvalidKey")
    if names & CONFLICT:
        return ConflictError(f"{doing} met another writer again and again for {place.seconds:.0f} s: {text}")
    if names & BUSY or any(name.startswith("5") and name.isdigit() for name in names):
        return Unavailable(f"{place.endpoint} failed in {doing} for {place.seconds:.0f} s of attempts: {text}")
    return StorageError(f"{place.endpoint} refused {doing}: {text}")


def _explain_silence(error: BotoCoreError, place: Place) -> LLM360Error:
    """No answer that could be understood, or no request in the first place."""
    if isinstance(error, boto.FlexibleChecksumError):
        return IntegrityError(f"{place.uri} arrived damaged: {error}; read it again")
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError) and _may_pass(place):
        return Unavailable(f"the credentials for {place.endpoint} could not be renewed: {str(error).rstrip('.')}")
    if isinstance(
        error,
        boto.NoCredentialsError
        | boto.PartialCredentialsError
        | boto.CredentialRetrievalError
        | boto.ProfileNotFound
        | boto.TokenRetrievalError
        | boto.UnauthorizedSSOTokenError,
    ):
        return StoreUnusableError(
            f"no usable credentials for {place.endpoint} ({str(error).rstrip('.')});"
            " set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            reason="CredentialsRefused",
        )
    if isinstance(error, boto.SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return StoreUnusableError(
            f"the certificate of {place.endpoint} is not trusted; set AWS_CA_BUNDLE to its authority's file",
            reason="CertificateRefused",
        )
    if isinstance(error, boto.ParamValidationError):
        return StoreUnusableError(
            f"{place.uri} cannot be asked for: {' '.join(str(error).split())}", reason="InvalidStorageUri"
        )
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError):
        return Unavailable(
            f"no answer from {place.endpoint} about {place.uri} in {place.seconds:.1f} s of attempts"
            f" ({type(error).__name__}: {error})"
        )
    return StorageError(f"the S3 client failed for {place.uri}: {error}")
