"""Prints what an image's `/etc/llm360/build.json` holds: the commit, and the digests of uv.lock and of the sources.

    python3 images/build_info.py COMMIT

Run in the repository's root by the Dockerfiles, with nothing but Python's own library.
"""

import hashlib
import json
import sys
from pathlib import Path

PACKAGES = ("llm360", "trainer/llm360_trainer")


def source_digest(packages: list[Path]) -> str:
    """As `llm360_trainer.driver.environment.source_digest`: names and bytes of all Python and YAML files, sorted."""
    total = hashlib.sha256()
    for package in packages:
        for path in sorted(p for p in package.rglob("*") if p.suffix in {".py", ".yaml"} and p.is_file()):
            total.update(f"{package.name}/{path.relative_to(package).as_posix()}\0".encode())
            total.update(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{total.hexdigest()}"


def main() -> None:
    """Print the JSON."""
    lock = hashlib.sha256(Path("uv.lock").read_bytes()).hexdigest()
    info = {
        "commit": sys.argv[1],
        "lock_digest": f"sha256:{lock}",
        "source_digest": source_digest([Path(package) for package in PACKAGES]),
    }
    print(json.dumps(info, sort_keys=True))


if __name__ == "__main__":
    main()
