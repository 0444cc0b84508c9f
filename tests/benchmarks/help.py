"""Start-up of the command line: `llm360 --help` against a bare interpreter (goal: below 6 times its time).

python tests/benchmarks/help.py [--pairs 21] [-o json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

GOAL = 6.0


def seconds(command: list[str]) -> float:
    """Wall seconds of a whole process."""
    started = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=21, help="alternating pairs (default: %(default)s)")
    parser.add_argument("-o", dest="output", choices=("text", "json"), default="text")
    args = parser.parse_args()
    ours, bare = [str(Path(sys.executable).with_name("llm360")), "--help"], [sys.executable, "-c", "pass"]
    seconds(ours), seconds(bare)  # neither pays for a cold disk
    pairs = [(seconds(ours), seconds(bare)) for _ in range(args.pairs)]
    result = {
        "ours_seconds": statistics.median(a for a, _ in pairs),
        "bare_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
        "goal": GOAL,
        "pairs": args.pairs,
    }
    if args.output == "json":
        print(json.dumps(result))
    else:
        ours_ms, bare_ms = 1e3 * result["ours_seconds"], 1e3 * result["bare_seconds"]
        print(f"llm360 --help {ours_ms:.0f} ms, python -c pass {bare_ms:.0f} ms")
        print(f"median ratio {result['ratio']:.2f} of {args.pairs} pairs (goal < {GOAL:g})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
