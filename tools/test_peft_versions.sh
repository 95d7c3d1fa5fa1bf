#!/usr/bin/env bash
# Run the PEFT tests against other versions of PEFT than the installed one.
#
#   tools/test_peft_versions.sh                 the oldest that transformers takes, and the installed
#   tools/test_peft_versions.sh 0.20.0 0.21.0   these versions
#
# Each version is unpacked, without its dependencies, into a temporary folder that goes before the
# environment's own packages; the environment stays as it is. PYTHON chooses the interpreter and
# PIP_INSTALL adds options to pip.
set -euo pipefail

cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ $# -eq 0 ]; then
    oldest=$("$python" -c 'from transformers.integrations.peft import MIN_PEFT_VERSION as v; print(v)')
    installed=$("$python" -c 'from importlib.metadata import version as v; print(v("peft"))')
    set -- "$oldest" "$installed"
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false
for version in "$@"; do
    # shellcheck disable=SC2086 - PIP_INSTALL is a list of options
    "$python" -m pip install --quiet --no-deps ${PIP_INSTALL:-} --target "$scratch/$version" "peft==$version"
    found=$(PYTHONPATH="$scratch/$version" "$python" -c 'import peft; print(peft.__version__)')
    if [ "$found" != "$version" ]; then
        echo "asked for PEFT $version but $found is imported" >&2
        exit 1
    fi
    echo "PEFT $version"
    PYTHONPATH="$scratch/$version" "$python" -m pytest -p no:cacheprovider tests/integrations -k peft
done
