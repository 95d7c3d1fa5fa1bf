"""Neuron sets in Hub repositories: what a push replaces, what it leaves alone, what it refuses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .. import hub
from ..errors import ArtifactError, HubError
from . import card
from . import layer_picture as picture
from . import storage as artifact

# What neuronsteer writes into a set's folder, and may therefore take away again: `peft_files` owns
# the second line.
_OURS = re.compile(
    rf"{artifact.CONFIG}|{artifact.TENSORS}|{picture.FILE}"
    r"|adapter_model\.safetensors|lang_[^/]+/adapter_(config\.json|model\.safetensors)"
)
_SET = re.compile(rf"(?:(.+)/)?{re.escape(artifact.TENSORS)}")


def pull(
    path_or_repo: str | os.PathLike[str], *, subfolder: str | None = None, **options: Any
) -> Path:
    """Return a local folder with the files of a neuron set; see `hub.fetch` for the options.

    Raises:
        ArtifactError: If the repository holds something else; the message says what.
        HubError: If it cannot be found or reached.
    """
    try:
        return hub.fetch(
            path_or_repo,
            filenames=(artifact.CONFIG, artifact.TENSORS),
            subfolder=subfolder,
            **options,
        )
    except hub.MissingFileError as error:
        name = os.fspath(path_or_repo)
        if error.folder is not None:
            # There is a config: if it is another kind of adapter, reading it says so.
            try:
                artifact.read_config(error.folder)
            except ArtifactError as told:
                raise ArtifactError(f"Cannot load {name!r}: {told}") from error
        prefix = f"{hub.clean_subfolder(subfolder)}/" if subfolder else ""
        here = [path[len(prefix) :] for path in error.there if path.startswith(prefix)]
        if not error.there or error.missing != artifact.CONFIG:
            raise
        where = f"subfolder {subfolder!r} of the repository" if here and prefix else "repository"
        found = artifact.explain(here or error.there, where)
        raise ArtifactError(f"Cannot load {name!r}: {found}") from error


def companions(path_or_repo: str | os.PathLike[str], **options: Any) -> dict[str, bytes]:
    """Return what lies beside a set for people to read, as far as it is there: card and picture.

    Args:
        path_or_repo: Where the set is.
        **options: As `pull` takes them.
    """
    found: dict[str, bytes] = {}
    for name in (artifact.CARD, picture.FILE):
        with suppress(hub.MissingFileError, FileNotFoundError):
            found[name] = (hub.fetch(path_or_repo, filenames=[name], **options) / name).read_bytes()
    return found


def push(
    files: Mapping[str, bytes],
    summary: Mapping[str, Any],
    repo_id: str,
    *,
    subfolder: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    token: str | bool | None = None,
) -> str:
    """Put a set's files into a Hub repository as one commit and return its address.

    Files that an earlier push left and that this set does not have are deleted in the same commit.
    A `README.md` that was not generated is left alone, and the licence in one that was is kept.

    Args:
        files: The set's files, as `save_pretrained` writes them; the card is made here.
        summary: `NeuronSet.summary()`, for the card.
        repo_id: `owner/name`.
        subfolder: Folder inside, for several sets in one repository.
        private: Make a new repository private.
        revision: Branch, made if needed.
        commit_message: Default: what was uploaded.
        create_pr: Open a pull request instead of committing.
        token: Hub token; default: the stored one.

    Raises:
        HubError: If it could not be uploaded, or the place belongs to something else.
    """
    folder = hub.clean_subfolder(subfolder)
    prefix = f"{folder}/" if folder else ""
    contents = {name: data for name, data in files.items() if name != artifact.CARD}
    drawn = picture.draw(summary["layers"])
    if drawn is not None:
        contents[picture.FILE] = drawn

    def decide(there: hub.Repository) -> hub.Change:
        here = [path[len(prefix) :] for path in there.files if path.startswith(prefix)]
        _check_place(there.repo_id, here, folder)
        new = {prefix + name: data for name, data in contents.items()}
        usage: dict[str, Any] = {
            "repo_id": there.repo_id,
            "subfolder": folder,
            # A pull request will be merged into the branch that people load by default.
            "revision": None if create_pr else revision,
            "picture": drawn is not None,
        }

        def write(path: str, render: Callable[..., str], *of: Any, **more: Any) -> None:
            old = there.read(path).decode(errors="replace") if path in there.files else None
            if old is None or card.is_ours(old):
                new[path] = render(*of, license=card.license_of(old), **more).encode()

        write(prefix + artifact.CARD, card.render, summary, **usage)
        if folder and artifact.TENSORS not in there.files:
            sets = {match[1] for path in there.files if (match := _SET.fullmatch(path))} | {folder}
            write(artifact.CARD, card.render_index, sorted(sets), summary, repo_id=there.repo_id)
        stale = [prefix + name for name in here if _OURS.fullmatch(name)]
        return hub.Change(new, [path for path in stale if path not in new])

    place = hub.Repository(
        repo_id, private=private, revision=revision, create_pr=create_pr, token=token
    )
    return place.commit(decide, commit_message or _title(summary["labels"], folder))


def _check_place(repo_id: str, names: list[str], folder: str | None) -> None:
    """Raise if a set's files would change what a repository is."""
    if artifact.TENSORS in names:
        return
    found = None
    if artifact.CONFIG in names:
        found = "a PEFT adapter, whose files a neuron set would overwrite"
    elif "config.json" in names:
        found = "a full model, which could no longer be loaded with a neuron set beside it"
    if found:
        where = f"The folder {folder!r} of {repo_id!r}" if folder else f"The repository {repo_id!r}"
        raise HubError(
            f"{where} holds {found}. Nothing was uploaded. Choose another repository, or a folder "
            "of its own with subfolder=."
        )


def _title(labels: list[str], folder: str | None) -> str:
    shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
    text = f"Upload neuron set ({shown})" + (f" to {folder}" if folder else "")
    return re.sub(r"\s+", " ", text)[:200]
