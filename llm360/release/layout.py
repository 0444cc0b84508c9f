"""Where everything lies in a release: every key is spelled here and nowhere else.

    config/<hex>.json                          the run's identity, named by its digest
    environment/a003.json                      what attempt 3 ran on
    data/<stage>/manifest.json …               prepared data, where the run prepared it itself
    ledger/00000000.json …                     the chain that binds all the rest
    checkpoints/step_000000762/a003/manifest.json, model/…, state/…
    metrics/a003/<first>-<last>-<sha12>.parquet
    evals/step_000000762/<checkpoint's hex>/<task>-<uid>/…
    analysis/<name>-<uid>/…   report/…   release/…

Keys are relative to the release's URI. Whatever an attempt writes carries its number, so no attempt can
overwrite another's bytes.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from llm360.canonical import DIGEST_PREFIX

LEDGER_PREFIX = "ledger"
CONFIG_PREFIX = "config"
ENVIRONMENT_PREFIX = "environment"
CHECKPOINTS_PREFIX = "checkpoints"
METRICS_PREFIX = "metrics"
MANIFEST_NAME = "manifest.json"
PROBE_KEY = "ledger/probe"

_ATTEMPT_KEY = re.compile(
    r"(?:environment/a(?P<environment>\d{3,})\.json"
    r"|metrics/a(?P<metrics>\d{3,})/.+"
    r"|checkpoints/step_\d{9,}/a(?P<checkpoint>\d{3,})/.+)"
)
_CHECKPOINT_KEY = re.compile(r"checkpoints/step_(?P<step>\d{9,})/a(?P<attempt>\d{3,})/(?P<rest>.+)")


class CheckpointKey(NamedTuple):
    """A key under a checkpoint's prefix, taken apart."""

    step: int
    attempt: int
    rest: str


def ledger_key(seq: int) -> str:
    """The key of the ledger's entry `seq`, counted from 0."""
    return f"{LEDGER_PREFIX}/{seq:08d}.json"


def config_key(digest: str) -> str:
    """The key of the configuration that has this digest."""
    return f"{CONFIG_PREFIX}/{digest.removeprefix(DIGEST_PREFIX)}.json"


def attempt_name(attempt: int) -> str:
    """`a003`: an attempt's number as keys carry it."""
    return f"a{attempt:03d}"


def environment_key(attempt: int) -> str:
    """The key of the description of what an attempt ran on."""
    return f"{ENVIRONMENT_PREFIX}/{attempt_name(attempt)}.json"


def checkpoint_prefix(step: int, attempt: int) -> str:
    """The folder of the checkpoint after `step` finished optimizer steps, as an attempt wrote it."""
    return f"{CHECKPOINTS_PREFIX}/step_{step:09d}/{attempt_name(attempt)}"


def manifest_key(prefix: str) -> str:
    """The key of the manifest in a checkpoint's or a data set's folder."""
    return f"{prefix}/{MANIFEST_NAME}"


def metrics_prefix(attempt: int) -> str:
    """The folder of an attempt's metrics segments."""
    return f"{METRICS_PREFIX}/{attempt_name(attempt)}"


def metrics_key(attempt: int, first_step: int, last_step: int, digest: str) -> str:
    """The key of a metrics segment that holds the records of steps `first_step` to `last_step`."""
    sha12 = digest.removeprefix(DIGEST_PREFIX)[:12]
    return f"{metrics_prefix(attempt)}/{first_step}-{last_step}-{sha12}.parquet"


def eval_prefix(step: int, checkpoint: str, task: str, uid: str) -> str:
    """The folder of one evaluation of the checkpoint whose entry is named `checkpoint`."""
    return f"evals/step_{step:09d}/{checkpoint.removeprefix(DIGEST_PREFIX)}/{task}-{uid}"


def analysis_prefix(name: str, uid: str) -> str:
    """The folder of one analysis."""
    return f"analysis/{name}-{uid}"


def attempt_of(key: str) -> int | None:
    """The attempt whose number a key carries; None where it carries none."""
    match = _ATTEMPT_KEY.fullmatch(key)
    return int(next(group for group in match.groups() if group is not None)) if match else None


def parse_checkpoint_key(key: str) -> CheckpointKey | None:
    """Take apart a key under a checkpoint's prefix; None for any other key."""
    match = _CHECKPOINT_KEY.fullmatch(key)
    return CheckpointKey(int(match["step"]), int(match["attempt"]), match["rest"]) if match else None
