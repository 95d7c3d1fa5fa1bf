"""Files that others wrote with `torch.save`: their tensors are read, their code never runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import NeuronSteerError


def read_torch_file(
    path: str | os.PathLike[str], expected: str, error: type[NeuronSteerError]
) -> Any:
    """Return what is in a file, with tensors on the CPU.

    Args:
        path: The file.
        expected: What it should be, for messages.
        error: What to raise.

    Raises:
        NeuronSteerError: If it is missing, damaged, or holds objects that would run code.
    """
    file = Path(path)
    if not file.is_file():
        kind = "is a folder" if file.is_dir() else "does not exist"
        raise error(f"{os.fspath(path)!r} {kind}; expected {expected}.")
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as found:
        reason = str(found).strip().splitlines()[0] if str(found).strip() else repr(found)
        raise error(
            f"{file.name} cannot be read as tensors: {reason} It is damaged, not a torch file, or "
            "holds other objects, which would run code on loading and are never unpickled here."
        ) from found
