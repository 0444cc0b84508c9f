"""From an address to its store."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llm360.errors import StoreUnusableError
from llm360.storage.base import Storage, StorageOptions
from llm360.storage.file import FileStorage

FORMS = "s3://bucket/prefix, file:///folder, a folder's path, or (to read only) http(s)://host/path"


def normalize_uri(uri: str) -> str:
    """The one spelling of an address: a path becomes an absolute `file://`, slashes at the end go.

    Raises:
        StoreUnusableError: the address is empty or of a form that no store has.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri:
            raise _bad_uri(uri, "it is empty")
        return Path(os.path.abspath(Path(uri).expanduser())).as_uri()  # noqa: PTH100 - links stay as they were named
    scheme = scheme.lower()
    if scheme == "file":
        if not rest.startswith("/"):
            raise _bad_uri(uri, f"it names the host {rest.partition('/')[0]!r}")
        return Path(os.path.abspath(unquote(rest))).as_uri()  # noqa: PTH100
    if scheme not in ("s3", "http", "https"):
        raise _bad_uri(uri, f"'{scheme}' is no scheme known here")
    if not urlsplit(f"{scheme}://{rest}").netloc:
        raise _bad_uri(uri, "it names no bucket" if scheme == "s3" else "it names no host")
    return f"{scheme}://{rest.rstrip('/')}"


def open_storage(uri: str, options: StorageOptions | None = None) -> Storage:
    """The store at an address. Nothing is read or written yet: a wrong bucket shows at the first use.

    Args:
        uri: `s3://bucket/prefix`, `file:///folder`, a folder's path, `http://…` or `https://…`.
        options: How to reach it; the defaults read `AWS_*` from the environment.

    Raises:
        StoreUnusableError: no store has an address of that form.
    """
    uri = normalize_uri(uri)
    options = options or StorageOptions()
    scheme, _, rest = uri.partition("://")
    if scheme == "file":
        return FileStorage(Path(unquote(rest)), options)
    if scheme == "s3":
        # boto3 takes longer to import than everything else here together, and most commands never need it.
        from llm360.storage.s3 import S3Storage

        bucket, _, prefix = rest.partition("/")
        return S3Storage(bucket, prefix, options)
    from llm360.storage.http import HttpStorage

    return HttpStorage(uri, options)


def _bad_uri(uri: str, problem: str) -> StoreUnusableError:
    return StoreUnusableError(f"{uri!r} is no address of a store: {problem}; write {FORMS}", reason="InvalidStorageUri")
