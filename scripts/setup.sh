#!/bin/sh
# Make .venv from uv.lock with the extras given as arguments. Needs Python >= 3.11 and nothing else:
# uv is taken from PATH, or installed into a small environment of its own beside .venv.
set -eu

say() { printf 'setup: %s\n' "$*" >&2; }

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
    say "llm360 needs Python 3.11 to 3.13; '$python' is $("$python" --version 2>&1). Name another with: make PYTHON=/path/to/python3 …"
    exit 2
fi

free_mib=$(df -Pm . | awk 'NR == 2 { print $4 }')
if [ ! -d .venv ] && [ "$free_mib" -lt 12000 ]; then
    say "needs about 12,000 MiB of disk (torch comes with CUDA); $free_mib MiB are free here. Free some and try again."
    exit 2
fi

if command -v uv >/dev/null 2>&1 && uv --version >/dev/null 2>&1; then
    uv=uv
else
    uv=.venv-uv/bin/uv
    if [ ! -x "$uv" ]; then
        say "installing uv"
        # Debian ships venv apart from Python; as root it can be had without asking.
        if ! "$python" -m venv .venv-uv >/dev/null 2>&1; then
            rm -rf .venv-uv
            if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
                say "installing Debian's python3-venv"
                apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null
                "$python" -m venv .venv-uv
            else
                say "Python's venv module is missing: install it (Debian: apt-get install python3-venv), or install uv."
                exit 2
            fi
        fi
        .venv-uv/bin/pip install --quiet --disable-pip-version-check uv
    fi
fi

# Machines behind a proxy with a certificate of its own know it here; where this file is missing uv's own list serves.
if [ -f /etc/ssl/certs/ca-certificates.crt ]; then
    export UV_SYSTEM_CERTS="${UV_SYSTEM_CERTS:-true}"
fi

say "installing the locked packages (the first time takes a minute or more)"
# Compiled once here: a run starts a dozen processes that import torch and Ray, and where Python may not write bytecode
# (PYTHONDONTWRITEBYTECODE) each of them would compile all of it again.
"$uv" sync --frozen --quiet --compile-bytecode --python "$python" "$@"
