#!/usr/bin/env bash
# Create a virtual environment that has pip, with whatever this machine offers.
# Usage: make_venv.sh FOLDER [PYTHON]
set -euo pipefail

venv=$1
wanted=${2:-}

suits() { "$1" -c 'import sys; sys.exit(not sys.version_info >= (3, 10))' 2>/dev/null; }

python=
for candidate in ${wanted:-python3 python3.14 python3.13 python3.12 python3.11 python3.10 python}; do
    if suits "$candidate"; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "neuronsteer needs Python 3.10 or newer; tried: ${wanted:-python3, python3.10 to python3.14, python}." >&2
    echo "Install one, or name it: make demo PYTHON=/path/to/python3" >&2
    exit 2
fi

works() { "$venv/bin/python" -m pip --version >/dev/null 2>&1; }

if works && suits "$venv/bin/python"; then
    exit 0
fi

echo "Creating $venv with $("$python" --version)"
# Debian ships python3 without ensurepip; then the system's pip, or virtualenv, can still do it.
if "$python" -m venv --clear "$venv" >/dev/null 2>&1 && works; then
    exit 0
fi
if "$python" -m venv --clear --without-pip "$venv" >/dev/null 2>&1 &&
    "$python" -m pip --python "$venv/bin/python" install --quiet pip && works; then
    exit 0
fi
if "$python" -m virtualenv --clear "$venv" >/dev/null 2>&1 && works; then
    exit 0
fi
echo "$python cannot create a virtual environment with pip." >&2
echo "On Debian and Ubuntu: apt-get install python3-venv; then run make again." >&2
exit 2
