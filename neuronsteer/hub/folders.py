"""Local folders: which one a name means, and what is in it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from ..errors import HubError, did_you_mean
from .reading import stays_inside
from .shipped import SHIPPED, builtin

_REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SNAPSHOT = re.compile(r"models--([\w.-]+)/snapshots/[0-9a-f]{40}/?$")
_COMMIT = re.compile(r"/models--[\w.-]+/snapshots/([0-9a-f]{40})(?:/|$)")
_URL = re.compile(r"(?:https?://[^/]+/|hf://)((?:datasets/|spaces/)?[\w.-]+/[\w.-]+)(/.*)?")


def local_folder(
    name: str, filenames: Sequence[str], subfolder: str | None, *, ownerless: bool = False
) -> Path | None:
    """Return the folder meant by `name`, `None` if it is a repository id, or raise.

    Args:
        name: What the user wrote.
        filenames: The files that are wanted.
        subfolder: Folder inside.
        ownerless: Whether a repository may have a name without owner, such as "gpt2".
    """
    if not name.strip():
        raise HubError("An empty name: expected a folder or a Hub repository id.")
    path = Path(name).expanduser()
    folder = path / subfolder if subfolder else path
    shipped = builtin(f"{name}/{subfolder}" if subfolder else name)
    if shipped is not None and _has_any(shipped, filenames) and not _has_any(folder, filenames):
        # A folder that happens to be called so hides the shipped one only if it holds a set.
        return shipped
    if folder.is_dir():
        return folder
    if path.is_dir():
        raise HubError(f"The folder {name!r} has no subfolder {subfolder!r}.")
    if path.exists():
        raise HubError(f"{name!r} is a file; expected a folder or a Hub repository id.")
    if name in SHIPPED:
        raise HubError(f"This installation of neuronsteer is not complete: it has no set {name!r}.")
    check_repo_id(name)
    if "/" not in name and not ownerless:
        # Only old models have such names, so there is no need to ask the Hub.
        raise HubError(
            f"No folder {name!r}; expected one, or a Hub repository as 'owner/name'."
            + (similar_folder(name) or did_you_mean(name, SHIPPED))
        )
    return None


def similar_folder(name: str) -> str:
    """Return ` Did you mean 'x'?` for a folder beside `name` that is called almost like it."""
    path = Path(name).expanduser()
    try:
        there = [entry.name for entry in path.parent.iterdir() if entry.is_dir()]
    except OSError:
        return ""
    return did_you_mean(path.name, there)


def check_repo_id(name: str) -> None:
    """Raise if `name` cannot be a repository id, with what was probably meant."""
    url = _URL.fullmatch(name.strip())
    kind, _, rest = (url[1] if url else name).partition("/")
    if kind in ("datasets", "spaces") and re.fullmatch(r"[\w.-]+/[\w.-]+", rest):
        raise HubError(f"{rest!r} is given as one of the {kind}; expected a model repository.")
    if url:
        raise HubError(f"{name!r} is an address; pass the repository id {url[1]!r}.")
    if not _REPO_ID.fullmatch(name) or name.startswith("."):
        raise HubError(
            f"No folder {name!r}, and it cannot be a Hub repository id (expected 'owner/name')."
            + (similar_folder(name) or " Check the path.")
        )


def public_name(name: str | None) -> str | None:
    """Return how artifacts name a model or folder: without where it lies on this machine.

    A Hub id stays, and a snapshot in the Hub's cache gets its id back. Any other folder begins with
    `./`, so that it is not taken for a Hub id: a relative path stays and loads from where it did, a
    path from the top is only its last part. `_name_or_path` in the folder's own config is not used:
    in a fine-tuned model it names the model that the weights were before.
    """
    if not name:
        return None
    if _REPO_ID.fullmatch(name) and not name.startswith(".") and not Path(name).is_dir():
        return name
    path = PureWindowsPath(name) if "\\" in name else PurePosixPath(name)
    cached = _SNAPSHOT.search(path.as_posix())
    if cached is not None:
        return cached[1].replace("--", "/")
    from_here = not path.anchor and ".." not in path.parts and not name.startswith("~")
    shown = path.as_posix() if from_here else path.name
    return f"./{shown}" if shown not in ("", ".", "..") else None


def commit_of(folder: Path) -> str | None:
    """Return the commit that a folder of the Hub's cache holds, `None` for any other folder.

    A branch may move, so whoever fetches again, for more of the same, asks for this.
    """
    found = _COMMIT.search(folder.as_posix())
    return found[1] if found else None


def clean_subfolder(subfolder: str | None) -> str | None:
    """Return `subfolder` without slashes around it, `None` if nothing is left of it.

    Raises:
        HubError: If it leads out of the repository.
    """
    name = (subfolder or "").replace("\\", "/").strip("/")
    if name in ("", "."):
        return None
    if not stays_inside(name):
        raise HubError(f"subfolder={subfolder!r} is not a folder inside a repository.")
    return name


def _has_any(folder: Path, filenames: Sequence[str]) -> bool:
    return any((folder / file).exists() for file in filenames)


def read_folder(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """Return every file below `folder`, by its path with forward slashes."""
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
