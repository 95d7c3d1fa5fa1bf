"""Whether a place may be written: nothing that is there is replaced or mixed up by accident."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from ..errors import ParameterError

# What a file says about the folder that holds it.
_KINDS = {
    "stats.json": "statistics",
    "neurons.safetensors": "a neuron set",
    "report.json": "a report",
    "config.json": "a model",
}


def check_output(
    place: str | os.PathLike[str],
    what: str,
    is_earlier: Callable[[Path], bool],
    *,
    overwrite: bool,
    resume: bool | None = None,
    beside: Iterable[str | os.PathLike[str]] = (),
) -> None:
    """Raise unless a folder or file can be written, or what is there may be replaced.

    Args:
        place: Where something is to be written.
        what: What it is, e.g. `"a neuron set"`.
        is_earlier: Tells whether what is there is an earlier one of these; anything else is never
            replaced, and never gets files put beside its own.
        overwrite: Whether an earlier one may be replaced.
        resume: Whether its work goes on; `None` where there is no such thing.
        beside: Where unfinished work is kept, which starting over would delete.

    Raises:
        ParameterError: If it may not be written; nothing was changed.
    """
    path = Path(place).expanduser()
    if not _is_free(path) and not is_earlier(path):
        raise ParameterError(
            f"{str(path)!r} {_content(path)}; expected a place for {what}, empty or with an "
            "earlier one. Nothing was changed; choose another place."
        )
    if overwrite or resume:
        return
    go_on = "" if resume is None else "resume=True goes on with it; "
    if not _is_free(path):
        raise ParameterError(
            f"{str(path)!r} {_content(path)} already. Choose another place, or overwrite=True "
            f"replaces {'it' if path.is_file() else 'what is there'}."
        )
    for each in beside:
        if Path(each).expanduser().exists():
            raise ParameterError(
                f"{os.fspath(each)!r} holds the work of an earlier run. "
                f"{go_on}overwrite=True starts anew."
            )


def kinds_in(folder: Path) -> list[str]:
    """Return what a folder holds that one of the commands wrote, e.g. `["a neuron set"]`."""
    return [kind for name, kind in _KINDS.items() if (folder / name).exists()]


def _is_free(path: Path) -> bool:
    """Return whether nothing is there; what version control keeps in a folder does not count."""
    if path.is_dir():
        return all(entry.name.startswith(".git") for entry in path.iterdir())
    return not path.exists() and not path.is_symlink()


def _content(path: Path) -> str:
    if not path.is_dir():
        return "is a file"
    names = sorted(entry.name for entry in path.iterdir())
    shown = ", ".join(names[:6]) + (", …" if len(names) > 6 else "")
    return f"holds {' and '.join(kinds_in(path)) or shown}"
