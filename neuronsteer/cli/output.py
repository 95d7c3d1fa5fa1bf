"""Folders that several commands write: neuron sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..hub import check_output


def check_set_folder(
    out: Path, overwrite: bool, *, resume: bool | None = None, beside: Iterable[Path] = ()
) -> None:
    """Raise unless a neuron set can be written to `out`, see `check_output`."""
    check_output(
        out,
        "a neuron set",
        lambda folder: (folder / "neurons.safetensors").is_file(),
        overwrite=overwrite,
        resume=resume,
        beside=beside,
    )
