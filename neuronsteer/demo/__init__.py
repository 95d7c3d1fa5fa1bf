"""What `demo` stands for: a small model and its neuron sets, part of the package.

The model lies in `model/` beside this file, its steering set directly in this folder, and a second
set, which describes rather than steers, in `lape/`.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def model_folder() -> Path:
    """Return the folder of the demo model."""
    return _HERE / "model"


def set_folder() -> Path:
    """Return the folder of the demo model's neuron set."""
    return _HERE
