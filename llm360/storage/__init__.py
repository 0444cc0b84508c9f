"""Objects in a bucket, a folder or behind a web server, behind one small interface (see `base`)."""

from llm360.errors import StoreUnusableError
from llm360.storage.base import ObjectInfo, Storage, StorageOptions, UnfinishedWrite
from llm360.storage.nowhere import NowhereStorage
from llm360.storage.open import normalize_uri, open_storage
from llm360.storage.probe import probe_conditional_create
from llm360.storage.retry import wait_until_available

__all__ = [
    "NowhereStorage",
    "ObjectInfo",
    "Storage",
    "StorageOptions",
    "StoreUnusableError",
    "UnfinishedWrite",
    "normalize_uri",
    "open_storage",
    "probe_conditional_create",
    "wait_until_available",
]
