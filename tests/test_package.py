"""The front door: public names, and a start without torch."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neuronsteer

ROOT = Path(__file__).resolve().parents[1]


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", neuronsteer.__all__)
def test_every_public_name_exists_and_is_documented(name: str):
    value = getattr(neuronsteer, name)
    assert name in dir(neuronsteer)
    if name != "__version__":
        assert value.__doc__


def test_public_names_are_sorted_and_unique():
    names = neuronsteer.__all__
    assert names == sorted(set(names))


def test_unknown_name_suggests_the_right_one():
    with pytest.raises(AttributeError, match="Did you mean 'collect'"):
        _ = neuronsteer.colect  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "code",
    [
        "import neuronsteer",
        "import neuronsteer; dir(neuronsteer); neuronsteer.__version__",
        "import sys\nfrom neuronsteer.cli import main\nsys.argv[1:] = ['--help']\n"
        "try: main()\nexcept SystemExit as e: assert not e.code",
        "import sys\nfrom neuronsteer.cli import main\nsys.argv[1:] = ['generate', '-h']\n"
        "try: main()\nexcept SystemExit as e: assert not e.code",
    ],
    ids=["import", "dir", "help", "command help"],
)
def test_start_does_not_import_heavy_libraries(code: str):
    heavy = ["torch", "transformers", "numpy", "safetensors", "huggingface_hub"]
    out = _python(
        f"{code}\nimport sys, json\nprint(json.dumps([m for m in {heavy} if m in sys.modules]))"
    )
    assert json.loads(out.strip().splitlines()[-1]) == []


def test_core_dependencies_are_what_the_core_imports():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.split(r"[<>=\[]", line)[0].replace("-", "_") for line in declared}
    sources = " ".join(
        file.read_text(encoding="utf-8") for file in (ROOT / "neuronsteer").rglob("*.py")
    )
    unused = {name for name in names if not re.search(rf"(import|from) {name}\b", sources)}
    assert not unused, f"pyproject.toml asks everyone to install {unused}, which nothing imports"


def test_constraints_begin_with_torch_and_fit_any_index():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0] == "torch==2.13.0"
    for pin in pins:
        assert re.fullmatch(
            r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; python_version >= \"3\.\d+\")?", pin
        ), pin


def test_the_front_door_has_few_names():
    assert len(neuronsteer.__all__) <= 23
