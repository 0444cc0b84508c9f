"""Large files pass through little memory, whatever the store."""

import json
import subprocess
import sys

import pytest

from llm360.storage.base import MIB

FILE_BYTES = 200 * MIB
ALLOWED_MIB = 100.0

# Moves the file there and back and prints by how many MiB the process grew at most, the libraries not counted.
MOVER = """
import json, sys
from pathlib import Path
from llm360.storage import StorageOptions, open_storage

uri, endpoint, folder = sys.argv[1:]
storage = open_storage(uri, StorageOptions(endpoint=endpoint or None))
storage.put("warm-up", b"")

def peak_mib():
    # Not getrusage: its maximum is inherited from the parent process.
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024

before = peak_mib()
digest = storage.upload("large", Path(folder, "source"))
after_upload = peak_mib()
storage.download("large", Path(folder, "target"), digest)
print(json.dumps({"upload": after_upload - before, "download": peak_mib() - before}))
"""


@pytest.mark.slow
def test_memory_stays_bounded(storage, tmp_path):
    with (tmp_path / "source").open("wb") as file:
        for number in range(FILE_BYTES // MIB):
            file.write(bytes([number]) * MIB)
    command = [sys.executable, "-c", MOVER, storage.uri, storage.options.endpoint or "", str(tmp_path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    growth = json.loads(output)
    print(f"growth of resident memory in MiB: {growth}")
    assert max(growth.values()) < ALLOWED_MIB
    for name in ("source", "target"):
        (tmp_path / name).unlink()
    storage.delete("large")
