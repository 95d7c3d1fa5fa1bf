#!/usr/bin/env bash
# Run PEFT's own tests of IA3 with NEURONSTEER, too, and compare: exits with 1 if NEURONSTEER fails
# what IA3 passes, unless tools/peft_suite.py gives a reason.
#
#   tools/test_peft_suite.sh                 the oldest supported PEFT, and the one in constraints.txt
#   tools/test_peft_suite.sh 0.20.0          this version; several may be given
#
# PEFT and its tests are unpacked from its source distribution into a temporary folder, and imported
# from there; everything else is the environment's. The models are tiny, random, and made here.
# PYTHON chooses the interpreter; PIP_INSTALL adds options to pip, PYTEST_ADDOPTS to pytest.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath -s "${PYTHON:-$root/.venv/bin/python}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [ $# -eq 0 ]; then
    oldest=$(sed -n 's/^peft = \["peft>=\([0-9.]*\)"\]$/\1/p' "$root/pyproject.toml")
    pinned=$(sed -n 's/^peft==//p' "$root/constraints.txt")
    set -- "$oldest" "$pinned"
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
status=0
for version in "$@"; do
    folder=$scratch/$version
    mkdir "$folder"
    # shellcheck disable=SC2086 - PIP_INSTALL is a list of options
    "$python" -m pip download --quiet --no-deps --no-binary peft ${PIP_INSTALL:-} \
        --dest "$folder" "peft==$version"
    tar -xzf "$folder"/peft-*.tar.gz -C "$folder" --strip-components 1
    # Beside this repository's own `tests`, which has the tiny models; relative imports want a package.
    mv "$folder/tests" "$folder/peft_tests"
    touch "$folder/peft_tests/__init__.py"
    # Only asked for with isinstance, and large.
    sed -i 's/^from diffusers import StableDiffusionPipeline$/StableDiffusionPipeline = ()/' \
        "$folder/peft_tests/testing_common.py"
    echo "[pytest]" >"$folder/pytest.ini"
    (
        cd "$folder"
        PYTHONPATH="$folder/src:$root:$root/tools" "$python" -m pytest -q --no-header --tb=short \
            --disable-warnings -c pytest.ini -p no:cacheprovider -p peft_suite \
            peft_tests/test_custom_models.py peft_tests/test_decoder_models.py
    ) || status=1
done
exit $status
