"""Reaching a Ray cluster by the address that a user gives, and what is said where there is no Ray."""

from __future__ import annotations

import os
import re
import socket

from llm360.errors import InputError, LLM360Error

CONNECT_SECONDS = 10.0
"""How long a cluster's address may take to answer."""
LAST_PORT = 65_535
THIS_MACHINES = "auto"
"""The word for the cluster that this machine belongs to."""

# The first bytes of a gRPC client, with settings left as they are; a server answers with its own.
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_FRAME_BYTES, _TYPE, _SETTINGS = 9, 3, 4

_ADDRESS = re.compile(r"(?:ray://)?(?P<host>[^\s:/]+|\[[0-9a-fA-F:.]+\]):(?P<port>[0-9]{1,5})")


def check_reachable(address: str) -> None:
    """See that a server of Ray's kind listens at the address: Ray itself tries for many minutes before it says no.

    Raises:
        InputError: none does, or it is no address.
    """
    if address == THIS_MACHINES:
        return
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) <= LAST_PORT:
        raise InputError(
            f"'{address}' is no address of a Ray cluster; write HOST:PORT, for example 10.0.0.1:6379, or"
            f" '{THIS_MACHINES}' for the cluster that this machine belongs to",
            reason="RayUnreachable",
        )
    try:
        _greet(match["host"].strip("[]"), int(match["port"]))
    except (OSError, UnicodeError) as error:
        raise unreachable(address, error) from error


def _greet(host: str, port: int) -> None:
    """Raises an OSError where nobody listens, or somebody who does not speak gRPC, such as Ray's dashboard."""
    with socket.create_connection((host, port), timeout=CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
            return  # who listens there would not understand this
        connection.sendall(_HELLO)
        answer = connection.recv(_FRAME_BYTES)
    if answer[_TYPE : _TYPE + 1] != bytes((_SETTINGS,)):
        raise OSError("what listens there is not Ray, whose port is 6379 where none was chosen")


def unreachable(address: str, error: Exception) -> InputError:
    """What is said where no cluster lets us in."""
    return InputError(
        f"there is no Ray cluster at '{address}' that lets us in: {str(error).strip()}; if it asks for a token set"
        " RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or leave --address away to start Ray here",
        reason="RayUnreachable",
    )


def not_started(error: Exception) -> LLM360Error:
    """What is said where a Ray of our own does not come up."""
    return LLM360Error(
        f"Ray did not start on this machine: {str(error).strip()}; see that memory, disk and shared memory are"
        " not full and that the machine is not overloaded, then run the same command again",
        reason="RayNotStarted",
    )
