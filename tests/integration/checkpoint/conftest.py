"""Groups of gloo processes that write and read checkpoints of a tiny decoder."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

RANK = Path(__file__).with_name("rank.py")
DEADLINE_SECONDS = 300.0
MODEL_FILES = {"config.json": "{}\n", "tokenizer.json": "{}\n"}


RunRanks = Callable[..., Path]


class RankPool:
    """Processes that stay: importing torch takes longer than any of the scripts."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._processes: list[subprocess.Popen[str]] = []

    def play(self, script: Path, world: int) -> None:
        """Have the first `world` processes play the script together; fail with what they say."""
        while len(self._processes) < world:
            self._processes.append(self._start(len(self._processes)))
        for process in self._processes[:world]:
            assert process.stdin is not None
            process.stdin.write(f"{script}\n")
            process.stdin.flush()
        answers = [self._answer(process) for process in self._processes[:world]]
        if any(answers):
            self.close()
            pytest.fail("\n".join(filter(None, answers)))

    def close(self) -> None:
        """End the processes; the next script starts new ones."""
        for process in self._processes:
            process.kill()
            process.communicate(timeout=20)
        self._processes.clear()

    def _start(self, rank: int) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(RANK), str(rank)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def _answer(self, process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        if not select.select([process.stdout], [], [], DEADLINE_SECONDS)[0]:
            return f"no answer after {DEADLINE_SECONDS:g} s; see {self._log}"
        line = process.stdout.readline()
        return str(json.loads(line)) if line else f"a rank ended; see {self._log}"


@pytest.fixture(scope="session")
def tiny_config() -> dict[str, int]:
    """A `DecoderConfig` of which no size divides evenly by 2, 3 and 4 alike; keys have fewer rows than 3 or 4 ranks."""
    return {
        "vocab_size": 37,
        "hidden_size": 10,
        "intermediate_size": 14,
        "num_layers": 3,
        "num_heads": 5,
        "num_kv_heads": 1,
        "head_dim": 2,
    }


RunRanks = Callable[..., Path]


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_config: dict[str, int]) -> Iterator[RunRanks]:
    """Runs a script's actions (methods of `rank.State`) on `world` processes; returns the folder of what they show."""
    pool = RankPool(tmp_path_factory.mktemp("ranks") / "stderr")

    def run(
        uri: str | Path,
        world: int,
        *actions: dict[str, Any],
        shard_size: int | None = None,
        config: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Path:
        folder = tmp_path_factory.mktemp("script")
        script = {
            "uri": str(uri),
            "out": str(folder),
            "world": world,
            "config": config or tiny_config,
            "model_files": MODEL_FILES,
            "environment": environment or {},
            "shard_size": shard_size,
            "actions": actions,
        }
        (folder / "script.json").write_text(json.dumps(script))
        pool.play(folder / "script.json", world)
        return folder

    yield run
    pool.close()
