"""Of many writers of one key exactly one wins, and its bytes are what everybody reads."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from llm360.errors import ObjectExistsError

ROUNDS = 20
WRITERS = 8

# Every process says that it is ready, waits for the round's line, then writes; so that all begin together.
WRITER = """
import sys
from llm360.errors import ObjectExistsError
from llm360.storage import StorageOptions, open_storage

uri, endpoint, name = sys.argv[1:]
storage = open_storage(uri, StorageOptions(endpoint=endpoint or None))
storage.exists("warm-up")
print("ready", flush=True)
for line in sys.stdin:
    try:
        storage.create(f"race/{line.strip()}", name.encode() * 1000)
    except ObjectExistsError:
        print("lost", flush=True)
    else:
        print("won", flush=True)
"""


@pytest.mark.slow
def test_threads_race(storage):
    storage.exists("warm-up")
    for number in range(ROUNDS):
        key = f"race/{number}"
        barrier = threading.Barrier(WRITERS)

        def write(writer: int, key: str = key, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait(timeout=30)
            try:
                storage.create(key, str(writer).encode() * 1000)
            except ObjectExistsError:
                return False
            return True

        with ThreadPoolExecutor(WRITERS) as pool:
            won = list(pool.map(write, range(WRITERS)))
        assert won.count(True) == 1, f"round {number}: {won}"
        assert storage.get(key) == str(won.index(True)).encode() * 1000


@pytest.mark.slow
def test_processes_race(storage):
    command = [sys.executable, "-c", WRITER, storage.uri, storage.options.endpoint or ""]
    writers = [
        subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for number in range(WRITERS)
    ]
    try:
        assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * WRITERS
        for number in range(ROUNDS):
            for writer in writers:
                writer.stdin.write(f"{number}\n")
                writer.stdin.flush()
            answers = [writer.stdout.readline().strip() for writer in writers]
            assert sorted(answers) == ["lost"] * (WRITERS - 1) + ["won"], f"round {number}: {json.dumps(answers)}"
            assert storage.get(f"race/{number}") == str(answers.index("won")).encode() * 1000
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate(timeout=30)
