"""From an address to its store."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from llm360.errors import StoreUnusableError
from llm360.storage.base import Storage, StorageOptions
from llm360.storage.file import FileStorage

FORMS = "s3://bucket/prefix, file:///folder, a folder's path, or (to read only) http(s)://host/path"

# `s3:/bucket` and `file:runs/a` would else be folders named `s3:` and `file:runs`; `runs/a:b` is one indeed.
NEARLY_ADDRESS = re.compile(
    r"(?P<scheme>(?i:s3|file|https?)(?=:)|[A-Za-z][A-Za-z0-9+.-]*(?=:/)):(?P<rest>.*)", re.DOTALL
)


def normalize_uri(uri: str) -> str:
    """The one spelling of an address: a path becomes an absolute `file://`, slashes at the end go.

    Raises:
        StoreUnusableError: the address is empty or of a form that no store has.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if not uri:
            raise _bad_uri(uri, "it is empty")
        if nearly := NEARLY_ADDRESS.match(uri):
            raise _bad_uri(uri, _meant(nearly["scheme"].lower(), nearly["rest"]))
        return Path(os.path.abspath(Path(uri).expanduser())).as_uri()  # noqa: PTH100 - links stay as they were named
    scheme = scheme.lower()
    if scheme == "file":
        if not rest.startswith("/"):
            raise _bad_uri(uri, f"it names the host {rest.partition('/')[0]!r}")
        return Path(os.path.abspath(unquote(rest))).as_uri()  # noqa: PTH100
    if scheme not in ("s3", "http", "https"):
        raise _bad_uri(uri, f"'{scheme}' is no scheme known here")
    host = rest.partition("/")[0]
    if not host or host.startswith(("?", "#")):
        raise _bad_uri(uri, "it names no bucket" if scheme == "s3" else "it names no host")
    if scheme == "s3" and "@" in host:
        raise _bad_uri(uri, "it carries credentials, which are taken from AWS_ACCESS_KEY_ID and the rest only")
    if scheme != "s3":
        _check_web_address(f"{scheme}://{rest}")
    return f"{scheme}://{rest.rstrip('/')}"


def without_credentials(uri: str) -> str:
    """An address as it may be shown and stored: `http://name:password@host/path` without name and password."""
    return re.sub(r"^((?:https?|s3):/*)[^/?#]*@", r"\1", uri, flags=re.IGNORECASE)


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


def _check_web_address(uri: str) -> None:
    """See that keys can be put behind it.

    Raises:
        StoreUnusableError: it cannot be a folder's.
    """
    if mark := re.search(r"[?#]", uri):
        raise _bad_uri(
            uri[: mark.start()] + mark[0],
            f"what follows '{mark[0]}' belongs to one page, and a release is many; leave it away, or write"
            f" %{ord(mark[0]):X} where a folder's name holds a '{mark[0]}'",
        )
    try:
        parts = urlsplit(uri)
        _, host = parts.port, parts.hostname
    except ValueError:
        # Perhaps not a port but a password that holds a slash, so it is not repeated here.
        raise _bad_uri(
            uri.partition("://")[0] + "://…",
            "its host or its port (0 to 65535) is none; in a name or password, write '/' as %2F and '@' as %40",
        ) from None
    if not host:
        raise _bad_uri(uri, "it names no host")


def _meant(scheme: str, rest: str) -> str:
    """What was probably to be written instead of `scheme:rest`, which has no `://`."""
    if scheme not in ("s3", "file", "http", "https"):
        return f"'{scheme}' is no scheme known here"
    path = rest.lstrip("/")
    if scheme == "file":
        return f"did you mean '{f'file:///{path}' if rest.startswith('/') else path}'?"
    return f"did you mean '{without_credentials(f'{scheme}://{path}')}'?"


def _bad_uri(uri: str, problem: str) -> StoreUnusableError:
    return StoreUnusableError(
        f"{without_credentials(uri)!r} is no address of a store: {problem}; write {FORMS}", reason="InvalidStorageUri"
    )
