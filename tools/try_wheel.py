"""Build the source distribution, a wheel from it, and use that wheel away from the repository.

python tools/try_wheel.py

The wheel goes into a new environment that borrows what it depends on from the one that runs this
script, so that this takes seconds; .github/workflows/build.yml installs everything anew. Only
hatchling, which builds, is fetched.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: What `import neuronsteer` leaves alone, because each takes longer than all of the package.
HEAVY = ("huggingface_hub", "numpy", "rich", "safetensors", "torch", "transformers")


class UnusableWheelError(Exception):
    """A distribution lacks something, or does not work."""


def build(folder: Path) -> Path:
    """Return the wheel, built from the source distribution alone."""
    found = re.search(
        r'^requires = \["(.+)"\]$', (ROOT / "pyproject.toml").read_text("utf-8"), re.M
    )
    if found is None:
        raise UnusableWheelError("pyproject.toml names no single program that builds the package.")
    backend = folder / "backend"
    _run([sys.executable, "-m", "pip", "install", "-q", "--target", str(backend), found[1]], folder)
    hatchling = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    surroundings = {"PYTHONPATH": str(backend)}
    _run([*hatchling, "-t", "sdist"], ROOT, surroundings)
    (source,) = folder.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(folder / "source", filter="data")
    (unpacked,) = (folder / "source").iterdir()
    _run([*hatchling, "-t", "wheel"], unpacked, surroundings)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, folder: Path) -> Path:
    """Return the scripts of a new environment with the wheel, and with what we have ourselves."""
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)], folder.parent)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = [sys.executable, "-m", "pip", "--python", str(scripts / "python")]
    _run([*pip, "install", "-q", "--no-deps", "--no-index", str(wheel)], folder.parent)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    own = folder / ("Lib" if os.name == "nt" else f"lib/{version}") / "site-packages"
    # Files that end in .pth are not read in a folder that is added so: an editable installation of
    # this repository stays invisible.
    places = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (own / "borrowed.pth").write_text("\n".join(places) + "\n", encoding="utf-8")
    return scripts


def use(scripts: Path, folder: Path) -> list[str]:
    """Return what the installed package said, or raise because it does not work."""
    python, neuronsteer = str(scripts / "python"), str(scripts / "neuronsteer")
    asked = "import neuronsteer as n, json; print(json.dumps([n.__file__, n.__version__]))"
    done = _run([python, "-X", "importtime", "-c", asked], folder)
    place, version = json.loads(done.stdout)
    if not Path(place).is_relative_to(scripts.parent):
        raise UnusableWheelError(
            f"{place} was imported; expected the wheel below {scripts.parent}."
        )
    # "import time:   self |   cumulative | package"
    lines = [line.split("|") for line in done.stderr.splitlines() if line.count("|") == 2]
    times = {name.strip(): int(total) for _, total, name in lines if total.strip().isdigit()}
    early = sorted({name.partition(".")[0] for name in times} & set(HEAVY))
    if early:
        raise UnusableWheelError(f"`import neuronsteer` imports {', '.join(early)}, too.")
    if not (Path(place).parent / "py.typed").is_file():
        raise UnusableWheelError("The wheel lacks py.typed, so type checkers do not read it.")
    said = [f"neuronsteer {version}: imported in {times['neuronsteer'] / 1e6:.3f} s"]
    _run([neuronsteer, "show", "gemma"], folder)
    said.append("The sets of real models are there.")
    shown = json.loads(_run([neuronsteer, "demo", "--json"], folder).stdout)
    languages = {line["label"]: line for line in shown["parts"][0]["lines"] if line["label"]}
    said += [f"{label}: {line['text']}" for label, line in languages.items()]
    told = [line["found"] for line in languages.values()]
    # Without a language identifier nothing is told, and the texts differ all the same.
    if len({line["text"] for line in languages.values()}) < len(languages):
        raise UnusableWheelError("The demo writes the same, whatever language it is steered to.")
    if any(told) and sum(line["found"] == label for label, line in languages.items()) < 6:
        raise UnusableWheelError(f"The demo is not steered: {told} instead of {list(languages)}.")
    return said


def _run(
    command: list[str], folder: Path, more: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    surroundings = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | (more or {})
    done = subprocess.run(
        command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UnusableWheelError(
            f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )
    return done


def main() -> int:
    """Build, install and use the wheel; return 1 if it does not work."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        try:
            wheel = build(folder)
            print(wheel.name)
            away = folder / "away"
            away.mkdir()
            for line in use(install(wheel, folder / "environment"), away):
                print(line)
        except UnusableWheelError as error:
            print(error, file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
