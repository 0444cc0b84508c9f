"""The release of a run on a cluster: its address from the object, the credentials from the caller's environment."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from llm360.cli.kube.kubectl import Object, add_run, kubectl_of
from llm360.errors import InputError, StorageUnavailableError, StoreUnusableError
from llm360.storage import Storage, StorageOptions, open_storage


def add_release(parser: argparse.ArgumentParser) -> None:
    """Add RUN, its cluster, and another address of its store."""
    add_run(parser)
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="the S3 server as this machine reaches it, for example through kubectl port-forward"
        " (default: the run's storage.endpoint)",
    )


def with_release(args: argparse.Namespace, use: Callable[[Storage, argparse.Namespace], int]) -> int:
    """Open the run's release and use it; what the caller's machine lacks for that is said in the run's terms.

    Raises:
        InputError: there is no such run, or it names no store; its store cannot be used with these credentials.
        StorageUnavailableError: the store does not answer from here.
    """
    found = kubectl_of(args).get_run(args.name)
    storage = storage_of(found, args.endpoint)
    try:
        return use(storage, args)
    except StoreUnusableError as error:
        if error.reason != "CredentialsRefused":
            raise
        raise StoreUnusableError(f"{error.message}. {_credentials(found)}", reason=error.reason) from error
    except StorageUnavailableError as error:
        raise StorageUnavailableError(
            f"{error.message}. That is the address that the run's pods use; if this machine cannot reach it, forward a"
            " port (kubectl port-forward) and give --endpoint",
            reason=error.reason,
        ) from error


def storage_of(found: Object, endpoint: str | None) -> Storage:
    """The store that a run's object names."""
    stated = found["spec"].get("storage") or {}
    if "uri" not in stated:
        raise InputError(f"run '{found['metadata']['name']}' names no store: its spec.storage.uri is not set")
    options = StorageOptions(
        endpoint=endpoint or stated.get("endpoint"),
        region=stated.get("region"),
        path_style=stated.get("pathStyle"),
    )
    return open_storage(stated["uri"], options)


def _credentials(found: Object) -> str:
    """Where the run's own credentials are: we do not look at them, its user may."""
    secret = ((found["spec"].get("storage") or {}).get("secretRef") or {}).get("name")
    if secret is None:
        return "The run's pods have theirs from their service account; this machine needs its own"
    return (
        f"The run's own are in Secret '{secret}' of namespace '{found['metadata']['namespace']}', which this command"
        " does not read"
    )
