"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ..errors import HubError, ParameterError
from ._cards import CARD, MARK

# What configs, cards and the file system's own bookkeeping take beside the weights.
_MARGIN = 4 << 20


@contextmanager
def staged(directory: Path, size: int, *, overwrite: bool = False) -> Generator[Path]:
    """Yield an empty folder that takes the name `directory` when the block succeeds.

    Args:
        directory: Where the result goes.
        size: Bytes about to be written; checked against the free space first.
        overwrite: Replace a folder that is there. It is removed only after the new one is complete.

    Raises:
        ParameterError: If there is something already.
        HubError: If the disk is too small or cannot be written.
    """
    check_free(directory, overwrite)
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        check_space(directory.parent, size)
        mark = secrets.token_hex(4)
        stage = directory.with_name(f".{directory.name}.{mark}.tmp")
        stage.mkdir()
    except OSError as error:
        if isinstance(error, HubError):
            raise
        raise HubError(f"Cannot write to {str(directory)!r}: {error.strerror or error}.") from error
    try:
        yield stage
        old = directory.with_name(f".{directory.name}.{mark}.old")
        if directory.exists():
            directory.rename(old)
        try:
            stage.rename(directory)
        except BaseException:
            if old.exists():
                old.rename(directory)
            raise
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(stage, ignore_errors=True)
        if isinstance(error, OSError) and not isinstance(error, HubError):
            raise HubError(
                f"Cannot write to {str(directory)!r}: {error.strerror or error}. Nothing was "
                "left behind."
            ) from error
        raise


def check_free(directory: Path, overwrite: bool) -> None:
    """Raise unless `directory` can be made, or is an export that may be replaced."""
    if directory.is_symlink() or (directory.exists() and not directory.is_dir()):
        raise ParameterError(f"{str(directory)!r} exists and is not a folder; choose another one.")
    if not directory.is_dir() or not any(directory.iterdir()):
        return
    if not overwrite:
        raise ParameterError(
            f"The folder {str(directory)!r} exists and is not empty. Choose another one, or pass "
            "overwrite=True (--force) to replace an earlier export."
        )
    card = directory / CARD
    if not card.is_file() or MARK not in card.read_text(encoding="utf-8", errors="replace"):
        # Replacing deletes what is there, and a mistyped path may be somebody's home.
        raise ParameterError(
            f"The folder {str(directory)!r} was not written by neuronsteer's exports (or its card "
            "was edited), so it is not replaced. Remove it yourself or choose another one."
        )


def check_space(folder: Path, size: int) -> None:
    """Raise if `size` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if size + _MARGIN > free:
        raise HubError(
            f"Not enough disk space at {os.fspath(folder)!r}: about {_human(size)} are needed and "
            f"{_human(free)} are free. Nothing was written; make room or choose another disk."
        )


def _human(size: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
