"""Writing files and folders so that they are there completely or not at all.

Everything is written under a hidden name beside its place and then renamed. A process that is
killed leaves what was there before; the data of single files is on disk before their name is.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import HubError


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write one file: `write(temporary path)`, then rename.

    Raises:
        HubError: If it cannot be written; an earlier file is untouched then.
    """
    # A folder, because safetensors writes through a temporary file with a name of its own.
    folder = beside(path)
    temporary = folder / path.name
    try:
        with _explained(path):
            folder.mkdir(parents=True)
            write(temporary)
            # safetensors leaves the file readable for its owner only; others may share the folder.
            temporary.chmod(folder.stat().st_mode & 0o666)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_folder(folder: str | os.PathLike[str], files: Mapping[str, bytes]) -> Path:
    """Write `files` into `folder`, which may hold others, and return the folder.

    All contents are on disk before the first file is replaced, and files are replaced in the given
    order: put the one that makes the folder loadable last.

    Raises:
        HubError: If the folder cannot be written; nothing was replaced then.
    """
    target = Path(folder).expanduser()
    written: dict[str, Path] = {}
    try:
        with _explained(folder):
            target.mkdir(parents=True, exist_ok=True)
            for name, content in files.items():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                written[name] = beside(target / name)
                with written[name].open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            for name in files:
                os.replace(written[name], target / name)
                del written[name]
    finally:
        for leftover in written.values():
            with suppress(OSError):
                leftover.unlink()
    return target


@contextmanager
def new_folder(folder: Path) -> Generator[Path]:
    """Yield an empty folder that takes the name `folder` when the block succeeds.

    A folder that is there is removed, but only after the new one is complete.

    Raises:
        HubError: If it cannot be written; an earlier one is untouched then.
    """
    new, old = beside(folder), beside(folder, "old")
    try:
        with _explained(folder):
            new.mkdir(parents=True)
            yield new
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except BaseException:
                if old.exists():
                    old.rename(folder)
                raise
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(new, ignore_errors=True)


@contextmanager
def scratch_folder() -> Generator[Path]:
    """Yield an empty folder that is gone afterwards.

    Raises:
        HubError: If there is no room for it, or for what is written there.
    """
    with _explained(tempfile.gettempdir()), tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def beside(path: Path, ending: str = "tmp") -> Path:
    """Return a hidden name of nothing else, on the same disk as `path`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{ending}")


@contextmanager
def _explained(place: str | os.PathLike[str]) -> Generator[None]:
    """Say what could not be written; errors that say it already pass."""
    try:
        yield
    except HubError:
        raise
    except OSError as error:
        raise HubError(
            f"Cannot write to {os.fspath(place)!r}: {error.strerror or error}. No unfinished files "
            "are left behind."
        ) from error
