"""What the bucket's store makes of answers that a good server seldom gives; the rest is tested on a real one."""

import datetime as dt
import hashlib
import io
import itertools
import threading
from types import SimpleNamespace

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError, CredentialRetrievalError, FlexibleChecksumError, ReadTimeoutError
from urllib3 import HTTPResponse

from llm360.errors import IntegrityError, ObjectExistsError, StorageUnavailableError
from llm360.storage import StorageOptions, StoreUnusableError
from llm360.storage.base import MIB
from llm360.storage.process import PerProcess
from llm360.storage.s3 import (
    MAX_PARTS,
    MIN_PART_BYTES,
    S3Storage,
    check_receipt,
    crc32,
    make_client,
    standing_of,
    tell_silence,
)

OPTIONS = StorageOptions(endpoint="http://127.0.0.1:1", max_attempts=3)


def refusal(code, status):
    return ClientError(
        {"Error": {"Code": code, "Message": "because"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
    )


class Answers:
    """Stands in for boto3's client below our wrapper: each call takes the next answer of its operation."""

    def __init__(self, **answers):
        self.answers = {operation: iter(each) for operation, each in answers.items()}
        self.calls = []
        self.lock = threading.Lock()
        self.meta = type("Meta", (), {"endpoint_url": "http://store"})

    def __getattr__(self, operation):
        if operation not in self.answers:
            raise AttributeError(operation)

        def call(**params):
            with self.lock:
                self.calls.append((operation, params))
                answer = next(self.answers[operation])
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def store(**answers):
    client = Answers(**answers)
    return S3Storage("bucket", "run", OPTIONS, PerProcess(lambda: client)), client


@pytest.fixture(autouse=True)
def quick_backoff(monkeypatch):
    monkeypatch.setattr("llm360.storage.retry.FIRST_PAUSE", 0.001)


@pytest.fixture(autouse=True)
def nothing_known():
    """No store has worked in this process before the test."""
    standing_of.cache_clear()


WHEN = dt.datetime(2026, 11, 22, tzinfo=dt.UTC)
RECEIPT = {"ETag": '"x"', "ChecksumCRC32": crc32(b"data")}


def test_a_conflict_is_tried_again():
    storage, client = store(put_object=[refusal("ConditionalRequestConflict", 409), RECEIPT])
    storage.create("key", b"data")
    assert [params["IfNoneMatch"] for _, params in client.calls] == ["*", "*"]


def test_a_conflict_may_end_in_defeat():
    storage, _ = store(put_object=[refusal("ConditionalRequestConflict", 409), refusal("PreconditionFailed", 412)])
    with pytest.raises(ObjectExistsError, match="s3://bucket/run/key exists already"):
        storage.create("key", b"data")


def test_a_lasting_conflict_is_unavailability():
    storage, client = store(put_object=itertools.repeat(refusal("ConditionalRequestConflict", 409)))
    with pytest.raises(StorageUnavailableError):
        storage.create("key", b"data")
    assert len(client.calls) == 3


def test_a_server_that_does_not_know_the_condition():
    storage, _ = store(put_object=[refusal("NotImplemented", 501)])
    with pytest.raises(StoreUnusableError, match="has no conditional create") as error:
        storage.create("key", b"data")
    assert error.value.reason == "ConditionalCreateUnsupported"


class BrokenBody(io.BytesIO):
    def read(self, *_):
        raise ReadTimeoutError(endpoint_url="http://store")


def test_a_body_that_breaks_off_is_read_again():
    storage, client = store(get_object=[{"Body": BrokenBody()}, {"Body": io.BytesIO(b"data")}])
    assert storage.get_range("key", 5, 4) == b"data"
    assert [params["Range"] for _, params in client.calls] == ["bytes=5-8"] * 2


def test_a_body_that_always_breaks_off():
    storage, _ = store(get_object=({"Body": BrokenBody()} for _ in itertools.count()))
    with pytest.raises(StorageUnavailableError, match="http://store"):
        storage.get("key")


class DamagedBody(io.BytesIO):
    def read(self, *_):
        raise FlexibleChecksumError(error_msg="differs")


def test_a_body_that_arrives_damaged_is_read_again():
    storage, _ = store(get_object=[{"Body": DamagedBody()}, {"Body": io.BytesIO(b"data")}])
    assert storage.get("key") == b"data"
    storage, _ = store(get_object=({"Body": DamagedBody()} for _ in itertools.count()))
    with pytest.raises(IntegrityError, match="arrived damaged"):
        storage.get("key")


@pytest.mark.parametrize("write", ["put", "create"])
def test_bytes_that_arrive_damaged_are_sent_again(write):
    storage, client = store(put_object=[refusal("BadDigest", 400), refusal("BadDigest", 400), RECEIPT])
    getattr(storage, write)("key", b"data")
    assert len(client.calls) == 3


def test_bytes_that_always_arrive_damaged_are_an_error():
    storage, client = store(put_object=itertools.repeat(refusal("BadDigest", 400)))
    with pytest.raises(IntegrityError, match="received other bytes than were sent"):
        storage.put("key", b"data")
    assert len(client.calls) == 3


def test_a_part_that_arrives_damaged_is_sent_again(source):
    part = {"ETag": '"not an md5"'}
    storage, client = store(
        create_multipart_upload=[{"UploadId": "u"}],
        upload_part=[refusal("BadDigest", 400), part, part],
        complete_multipart_upload=[{}],
        head_object=[{"ContentLength": 9 * MIB, "LastModified": WHEN}],
    )
    storage.upload("key", source)
    assert [name for name, _ in client.calls].count("upload_part") == 3


def test_credentials_that_cannot_be_renewed_are_waited_for_once_the_store_has_worked():
    """However often the same store is opened in the process."""
    late = CredentialRetrievalError(provider="sts", error_msg="timed out")
    storage, _ = store(put_object=[late, RECEIPT])
    with pytest.raises(StoreUnusableError, match="no usable credentials"):
        storage.put("key", b"data")
    storage.put("key", b"data")
    again, _ = store(get_object=[late])
    with pytest.raises(StorageUnavailableError, match="could not be renewed"):
        again.at("folder").get("key")


@pytest.mark.parametrize(
    "answer",
    [
        {"ChecksumCRC32": crc32(b"data")},
        {"ETag": '"' + hashlib.md5(b"data").hexdigest() + '"'},
        {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"', "ServerSideEncryption": "aws:kms"},
        {"ETag": '"not-an-md5"'},
        {},
    ],
    ids=["checksum", "md5", "encrypted", "opaque", "nothing"],
)
def test_receipts_that_are_accepted(answer):
    check_receipt(answer, b"data", crc32(b"data"), "key")


@pytest.mark.parametrize(
    "answer", [{"ChecksumCRC32": crc32(b"dato")}, {"ETag": '"' + hashlib.md5(b"dato").hexdigest() + '"'}]
)
def test_receipts_of_other_bytes(answer):
    with pytest.raises(IntegrityError, match="the store holds other bytes than were sent of key"):
        check_receipt(answer, b"data", crc32(b"data"), "key")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(bytes(9 * MIB))
    return path


def uploading(**answers):
    """A server that takes two parts, without checksums: they may arrive in either order."""
    parts = [{"ETag": '"first to arrive"'}, {"ETag": '"second to arrive"'}]
    return store(create_multipart_upload=[{"UploadId": "u"}], upload_part=parts, **answers)


def test_an_upload_that_the_server_completed_already(source):
    """The answer to its end was lost and the server forgot the upload: the object's bytes tell."""
    head = {"ContentLength": 9 * MIB, "LastModified": WHEN}
    storage, client = uploading(
        complete_multipart_upload=[refusal("NoSuchUpload", 404)],
        head_object=[head, head],
        get_object=[{"Body": io.BytesIO(bytes(8 * MIB))}, {"Body": io.BytesIO(bytes(MIB))}],
    )
    storage.upload("key", source)
    assert "abort_multipart_upload" not in [operation for operation, _ in client.calls]


def test_an_upload_that_vanished(source):
    storage, client = uploading(
        complete_multipart_upload=[refusal("NoSuchUpload", 404)],
        head_object=[refusal("404", 404)],
        head_bucket=[{}],
        abort_multipart_upload=[{}],
    )
    with pytest.raises(Exception, match="no longer knows the upload of s3://bucket/run/key"):
        storage.upload("key", source)
    assert client.calls[-1][0] == "abort_multipart_upload"


def test_an_object_that_is_shorter_than_what_was_sent(source):
    storage, _ = uploading(
        complete_multipart_upload=[{}],
        head_object=[{"ContentLength": 5, "LastModified": WHEN}],
        abort_multipart_upload=[refusal("NoSuchUpload", 404)],
    )
    with pytest.raises(IntegrityError, match="has 5 bytes, 9437184 were sent"):
        storage.upload("key", source)


@pytest.mark.parametrize(
    ("size", "part_bytes"),
    [(0, 8 * MIB), (8 * MIB, 8 * MIB), (8 * MIB * MAX_PARTS, 8 * MIB), (16 * MIB * MAX_PARTS, 16 * MIB)],
)
def test_parts_grow_with_the_object(size, part_bytes):
    """S3 takes 10,000 parts and no more."""
    storage, _ = store(create_multipart_upload=[{"UploadId": "u"}])
    writer = storage.open_parts("key", size)
    assert writer.part_bytes == part_bytes
    assert size <= writer.part_bytes * MAX_PARTS


def test_parts_are_never_smaller_than_s3_takes():
    storage = S3Storage("bucket", "", StorageOptions(part_bytes=1000))
    assert storage.open_parts("key", 1).part_bytes == MIN_PART_BYTES


def test_a_bucket_that_may_not_be_looked_at_counts_as_there():
    storage, client = store(
        head_object=itertools.repeat(refusal("404", 404)), head_bucket=[refusal("AccessDenied", 403)]
    )
    assert not storage.exists("one")
    assert not storage.exists("two")
    assert [operation for operation, _ in client.calls] == ["head_object", "head_bucket", "head_object"]


def test_listing_goes_over_all_pages_and_skips_folder_marks():

    def page(*keys, **more):
        return {"Contents": [{"Key": key, "Size": 1, "LastModified": WHEN} for key in keys], **more}

    storage, client = store(
        list_objects_v2=[
            page("run/", "run/a/b", "run/a/", IsTruncated=True, NextContinuationToken="next"),
            page("run/a-b", IsTruncated=False),
        ]
    )
    assert [info.key for info in storage.list("a")] == ["a-b", "a/b"]
    assert client.calls[1][1] == {"Bucket": "bucket", "Prefix": "run/a", "ContinuationToken": "next"}


def test_client_settings(monkeypatch):
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    client = make_client(StorageOptions(read_timeout=3, max_attempts=7))
    assert client.meta.region_name == "eu-central-1"
    assert client.meta.endpoint_url == "http://127.0.0.1:9"
    assert client.meta.config.read_timeout == 3
    assert client.meta.config.retries == {"mode": "standard", "total_max_attempts": 7}
    assert make_client(OPTIONS).meta.endpoint_url == "http://127.0.0.1:1"
    client.close()


def test_endpoint_with_credentials_is_refused_without_showing_them():
    with pytest.raises(StoreUnusableError, match="the endpoint http://host:9000 is written with credentials") as error:
        make_client(StorageOptions(endpoint="http://me:secret@host:9000"))
    assert "secret" not in error.value.message


def test_a_silent_bucket_is_told_of_before_each_further_attempt(silent, monkeypatch, caplog):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    options = StorageOptions(endpoint=silent, read_timeout=0.05, max_attempts=2)
    with pytest.raises(StorageUnavailableError):
        S3Storage("bucket", options=options).get("key")
    assert [said for said in caplog.messages if "no answer" in said] == [
        f"no answer from {silent}; trying again (attempt 2 of 2)"
    ]


def test_many_readers_of_a_silent_bucket_tell_of_it_once(caplog):
    timeout = ReadTimeoutError(endpoint_url="http://store")
    for host in ["http://store", "http://store", "http://other", "http://store"]:
        tell_silence(5, 1, SimpleNamespace(host=host), timeout)
    assert [said.partition(";")[0] for said in caplog.messages] == [
        "no answer from http://store",
        "no answer from http://other",
    ]


def test_endpoint_that_is_no_url():
    with pytest.raises(StoreUnusableError, match="'nonsense' is no endpoint; write one like https://host:port"):
        make_client(StorageOptions(endpoint="nonsense"))


def test_profile_that_does_not_exist(monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(StoreUnusableError, match="nobody") as error:
        make_client(OPTIONS)
    assert error.value.reason == "CredentialsRefused"


@pytest.mark.parametrize(
    ("endpoint", "is_hashed"), [("https://store:1", False), (None, False), ("http://store:1", True)]
)
def test_bodies_are_hashed_for_the_signature_where_nothing_else_holds_them(monkeypatch, endpoint, is_hashed):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    client = make_client(StorageOptions(endpoint=endpoint))
    sent = []

    def answer(request, **_):
        sent.append(request.headers)
        body = HTTPResponse(io.BytesIO(), preload_content=False)
        return AWSResponse(request.url, 200, {"x-amz-checksum-crc32": crc32(b"data")}, body)

    client.meta.events.register("before-send.s3.PutObject", answer)
    S3Storage("bucket", client=PerProcess(lambda: client)).put("key", b"data")
    body = hashlib.sha256(b"data").hexdigest() if is_hashed else "UNSIGNED-PAYLOAD"
    assert sent[0]["X-Amz-Content-SHA256"].decode() == body
    assert "x-amz-checksum-crc32" in sent[0]["Authorization"].decode(), "which is signed in any case"


@pytest.mark.parametrize(
    ("stated", "environment", "address"),
    [
        (None, None, "http://store:9000/bucket/key"),
        (None, "false", "http://bucket.store:9000/key"),
        (None, "true", "http://store:9000/bucket/key"),
        (True, "false", "http://store:9000/bucket/key"),
        (False, None, "http://bucket.store:9000/key"),
    ],
)
def test_the_bucket_stands_where_options_or_else_the_environment_say(monkeypatch, stated, environment, address):
    for name, value in (("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")):
        monkeypatch.setenv(name, value)
    if environment is not None:
        monkeypatch.setenv("LLM360_S3_PATH_STYLE", environment)
    client = make_client(StorageOptions(endpoint="http://store:9000", path_style=stated))
    signed = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "key"})
    assert signed.partition("?")[0] == address


def test_another_word_for_the_path_style_is_refused(monkeypatch):
    monkeypatch.setenv("LLM360_S3_PATH_STYLE", "no")
    with pytest.raises(StoreUnusableError, match=r"LLM360_S3_PATH_STYLE is 'no'; write true .* or false"):
        make_client(OPTIONS)
