"""What `demo` stands for on the command line: a small model and a neuron set, without the Hub.

The embedded model, where this installation has one, lies in `model/` beside this file and its
neuron set directly in this folder. Otherwise the toy model of `toy.py` takes its place: it is
trained on first use and kept in the user's cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

_HERE = Path(__file__).parent

Progress = Callable[[int, int, float], None]


def embedded() -> bool:
    """Whether this installation carries a real model and its neuron set."""
    parts = (_HERE / "model" / "config.json", _HERE / "adapter_config.json")
    return all(part.exists() for part in parts)


def is_toy(name: str) -> bool:
    """Whether a model name stands for the toy."""
    return name == "demo" and not embedded()


def model_folder(progress: Progress | None = None) -> Path:
    """Return the folder of the demo model, training the toy first if there is nothing else."""
    return _HERE / "model" if embedded() else _toy(progress) / "model"


def set_folder(progress: Progress | None = None) -> Path:
    """Return the folder of the demo model's neuron set."""
    return _HERE if embedded() else _toy(progress) / "set"


def toy_folder() -> Path:
    """Return where the toy is kept, whether or not it was trained already."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    # The recipe is in the name: a toy of another version is another toy.
    return Path(cache) / "neuronsteer" / "toy-3"


def _toy(progress: Progress | None) -> Path:
    folder = toy_folder()
    if not (folder / "set" / "adapter_config.json").exists():
        from .toy import build

        build(folder, progress)
    return folder
