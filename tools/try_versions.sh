#!/usr/bin/env bash
# The tests of the core with the lowest versions that pyproject.toml admits, or with another Python:
#
#   bash tools/try_versions.sh                                     # lowest versions
#   PYTHON=python3.13 RESOLUTION=highest bash tools/try_versions.sh  # another Python, newest versions
#   bash tools/try_versions.sh tests/stats                         # only these tests
#
# Needs uv, and several GB: the lowest torch comes from the package index, with CUDA. Left out are
# the tests of documents, of the page, and of what needs extras that are not installed here. The test
# Hub (tests/hub_server) needs the newer client of constraints.txt: with the lowest one its tests end in errors.
set -euo pipefail
cd "$(dirname "$0")/.."

resolution=${RESOLUTION:-lowest-direct}
venv=${VENV:-.venv-$resolution}
command -v uv >/dev/null || { echo "uv is missing; install it with: pip install uv" >&2; exit 2; }
[ -d "$venv" ] || uv venv --python "${PYTHON:-python3}" "$venv"
uv pip install --python "$venv/bin/python" --resolution "$resolution" -r pyproject.toml \
    --extra langid --extra peft --extra plots
uv pip install --python "$venv/bin/python" pytest pytest-timeout pytest-xdist hypothesis pyyaml

[ $# -gt 0 ] || set -- tests/test_package.py tests/test_demo_model.py tests/analysis tests/artifacts \
    tests/cli tests/codecs tests/detectors tests/enhancement tests/evaluation tests/exports tests/hub \
    tests/integrations tests/models tests/neuron_set tests/plots tests/stats tests/steering
PYTHONPATH=. OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false exec "$venv/bin/python" -m pytest -n 2 \
    -m "not real and not exhaustive and not network and not gpu" "$@"
