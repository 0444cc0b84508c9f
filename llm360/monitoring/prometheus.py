"""Asks a Prometheus what a panel of Grafana would ask it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import urllib3

from llm360.errors import InputError, LLM360Error
from llm360.report.series import Series

TIMEOUT_SECONDS = 60.0


class Found(NamedTuple):
    """One series of an answer."""

    labels: Mapping[str, str]
    series: Series
    """x: seconds since the Epoch."""


@dataclass(frozen=True)
class Prometheus:
    """A server.

    Args:
        address: `http://host:9090`.
    """

    address: str

    def range(self, expr: str, start: float, end: float, step: float) -> list[Found]:
        """The expression's values from one time to another, seconds since the Epoch, one each `step` seconds.

        Raises:
            InputError: the server does not take the expression.
            LLM360Error: nobody answers at the address, or not as a Prometheus does.
        """
        fields = {"query": expr, "start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step:g}"}
        url = f"{self.address.rstrip('/')}/api/v1/query_range"
        try:
            pool = urllib3.PoolManager(timeout=TIMEOUT_SECONDS, retries=False)
            answer = pool.request("POST", url, fields=fields, encode_multipart=False)
        except urllib3.exceptions.HTTPError as error:
            raise _unknown(url, error) from error
        try:
            said = json.loads(answer.data)
            if answer.status == 400:
                raise InputError(f"Prometheus does not take {expr!r}: {said['error']}")
            return [Found(each["metric"], _series(each["values"])) for each in said["data"]["result"]]
        except (ValueError, KeyError, TypeError) as error:
            raise _unknown(url, error) from error


def _unknown(url: str, error: Exception) -> LLM360Error:
    return LLM360Error(
        f"{url} does not answer as a Prometheus does ({error!r}): give the address of one, http://HOST:9090",
        reason="PrometheusUnavailable",
    )


def _series(values: list[tuple[float, str]]) -> Series:
    return Series(np.array([time for time, _ in values]), np.array([float(value) for _, value in values]))
