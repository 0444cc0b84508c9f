"""Every answer of an S3 server that a user may meet, and the sentence that he gets."""

import botocore.exceptions as boto
import pytest

from llm360.errors import IntegrityError, ObjectExistsError, ObjectNotFoundError, StorageError, StorageUnavailableError
from llm360.storage import StoreUnusableError
from llm360.storage.s3_errors import (
    PATIENCE_SECONDS,
    ConflictError,
    DamagedError,
    NotImplementedByStoreError,
    Place,
    Standing,
    UploadGoneError,
    explain,
)

PLACE = Place("s3://bucket/run/key", "bucket", "https://store:9000", 12.3)


def answer(code, status=400, operation="GetObject", message="because"):
    response = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return explain(boto.ClientError(response, operation), PLACE)


@pytest.mark.parametrize(
    ("code", "status", "operation", "reason", "words"),
    [
        (
            "NoSuchBucket",
            404,
            "GetObject",
            "BucketMissing",
            "there is no bucket 'bucket' at https://store:9000; create",
        ),
        ("404", 404, "HeadBucket", "BucketMissing", "there is no bucket"),
        ("InvalidAccessKeyId", 403, "GetObject", "CredentialsRefused", "check AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, "PutObject", "CredentialsRefused", "because (SignatureDoesNotMatch)"),
        ("ExpiredToken", 400, "PutObject", "CredentialsRefused", "refuses the credentials"),
        ("AccessDenied", 403, "GetObject", "CredentialsRefused", "refuses the credentials"),
        ("AccessDenied", 403, "PutObject", "NotWritable", "s3://bucket/run/key is not writable"),
        ("AccessDenied", 403, "DeleteObject", "NotWritable", "the right to put and delete"),
        ("403", 403, "HeadObject", "CredentialsRefused", "refuses the credentials"),
        ("RequestTimeTooSkewed", 403, "GetObject", "CredentialsRefused", "set the clock of this machine"),
        ("QuotaExceeded", 403, "PutObject", "DiskFull", "no space left for s3://bucket/run/key"),
        ("XMinioStorageFull", 507, "PutObject", "DiskFull", "free some or raise the quota"),
        ("PermanentRedirect", 301, "GetObject", "WrongRegion", "set AWS_REGION or AWS_ENDPOINT_URL"),
        ("KeyTooLongError", 400, "PutObject", "InvalidKey", "refuses the name s3://bucket/run/key"),
    ],
)
def test_what_the_user_must_repair(code, status, operation, reason, words):
    error = answer(code, status, operation)
    assert type(error) is StoreUnusableError
    assert (error.reason, error.exit_code) == (reason, 2)
    assert words in error.message
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, ObjectNotFoundError),
        ("404", 404, ObjectNotFoundError),
        ("PreconditionFailed", 412, ObjectExistsError),
        ("412", 412, ObjectExistsError),
        ("NoSuchUpload", 404, UploadGoneError),
        ("ConditionalRequestConflict", 409, ConflictError),
        ("OperationAborted", 409, ConflictError),
        ("NotImplemented", 501, NotImplementedByStoreError),
        ("BadDigest", 400, DamagedError),
        ("SlowDown", 503, StorageUnavailableError),
        ("InternalError", 500, StorageUnavailableError),
        ("", 502, StorageUnavailableError),
        ("RequestTimeout", 400, StorageUnavailableError),
        ("TooManyRequests", 429, StorageUnavailableError),
        ("MalformedXML", 400, StorageError),
    ],
)
def test_kinds(code, status, kind):
    error = answer(code, status)
    assert type(error) is kind
    assert "s3://bucket/run/key" in error.message


def test_unavailable_names_endpoint_and_time():
    assert answer("SlowDown", 503).message == (
        "https://store:9000 failed in GetObject of s3://bucket/run/key for 12 s of attempts: because (SlowDown)"
    )


URL = {"endpoint_url": "https://store:9000"}


@pytest.mark.parametrize(
    ("error", "kind", "reason", "words"),
    [
        (boto.NoCredentialsError(), StoreUnusableError, "CredentialsRefused", "set AWS_ACCESS_KEY_ID"),
        (
            boto.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY"),
            StoreUnusableError,
            "CredentialsRefused",
            "AWS_SECRET_ACCESS_KEY",
        ),
        (boto.ProfileNotFound(profile="x"), StoreUnusableError, "CredentialsRefused", "no usable credentials"),
        (
            boto.SSLError(error="CERTIFICATE_VERIFY_FAILED", **URL),
            StoreUnusableError,
            "CertificateRefused",
            "set AWS_CA_BUNDLE",
        ),
        (
            boto.ParamValidationError(report="Invalid\nbucket"),
            StoreUnusableError,
            "InvalidStorageUri",
            "Invalid bucket",
        ),
        (boto.SSLError(error="handshake broke off", **URL), StorageUnavailableError, "StorageUnavailable", "handshake"),
        (
            boto.EndpointConnectionError(error="refused", **URL),
            StorageUnavailableError,
            "StorageUnavailable",
            "no answer from https://store:9000 about s3://bucket/run/key in 12.3 s of attempts",
        ),
        (boto.ReadTimeoutError(**URL), StorageUnavailableError, "StorageUnavailable", "ReadTimeoutError"),
        (boto.ConnectTimeoutError(**URL), StorageUnavailableError, "StorageUnavailable", "ConnectTimeoutError"),
        (boto.IncompleteReadError(actual_bytes=1, expected_bytes=2), StorageUnavailableError, "StorageUnavailable", ""),
        (boto.FlexibleChecksumError(error_msg="differs"), IntegrityError, "IntegrityFailed", "arrived damaged"),
        (boto.UnknownServiceError(service_name="s4", known_service_names="s3"), StorageError, "StorageFailed", "s4"),
    ],
)
def test_silence(error, kind, reason, words):
    explained = explain(error, PLACE)
    assert type(explained) is kind
    assert explained.reason == reason
    assert words in explained.message


PASSING = [
    boto.CredentialRetrievalError(provider="sts", error_msg="timed out"),
    boto.TokenRetrievalError(provider="sso", error_msg="timed out"),
    *(
        boto.ClientError({"Error": {"Code": code, "Message": "because"}}, "PutObject")
        for code in ("ExpiredToken", "RequestTimeTooSkewed")
    ),
]
LASTING = [
    boto.NoCredentialsError(),
    *(
        boto.ClientError({"Error": {"Code": code, "Message": "because"}}, "PutObject")
        for code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")
    ),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
def test_credentials_that_fail_for_a_while_are_waited_for_once_the_store_has_worked(error, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("llm360.storage.s3_errors.time.monotonic", lambda: now[0])
    place = PLACE._replace(standing=Standing())
    assert type(explain(error, place)) is StoreUnusableError, "they never were good"
    place.standing.worked()
    for _ in range(2):
        now[0] += 10 * PATIENCE_SECONDS  # a rank may need the store seldom
        explained = explain(error, place)
        assert type(explained) is StorageUnavailableError
        assert "https://store:9000" in explained.message
        now[0] += PATIENCE_SECONDS - 1
        assert type(explain(error, place)) is StorageUnavailableError
        now[0] += 1
        assert type(explain(error, place)) is StoreUnusableError, "for as long as that it is the user's"
        place.standing.worked()


@pytest.mark.parametrize("error", LASTING, ids=repr)
def test_refusals_that_do_not_pass_are_the_users_also_of_a_store_that_has_worked(error):
    place = PLACE._replace(standing=Standing())
    place.standing.worked()
    assert type(explain(error, place)) is StoreUnusableError
