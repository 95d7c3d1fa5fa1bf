"""Neuron sets in Hub repositories: what a push replaces, keeps and refuses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import ArtifactError, HubError
from . import benchmark_results, card, storage

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from typing_extensions import Unpack

# What neuronsteer writes into a set's folder, and may therefore delete; `peft_files` writes what is
# in the second line.
_OWN_FILES = re.compile(
    rf"{storage.CONFIG}|{storage.TENSORS}|{card.PICTURE}|{re.escape(benchmark_results.FILE)}"
    r"|adapter_model\.safetensors|lang_[^/]+/adapter_(config\.json|model\.safetensors)"
)
_SET = re.compile(rf"(?:(.+)/)?{re.escape(storage.TENSORS)}")


def pull(path_or_repo: str | os.PathLike[str], **options: Unpack[hub.DownloadOptions]) -> Path:
    """Return a local folder with the files of a neuron set.

    Raises:
        ArtifactError: If the repository holds something else; the message says what.
        HubError: If it cannot be found or reached.
    """
    try:
        return hub.fetch(path_or_repo, filenames=(storage.CONFIG, storage.TENSORS), **options)
    except hub.MissingFileError as error:
        name, subfolder = os.fspath(path_or_repo), options.get("subfolder")
        if error.folder is not None:
            # There is a config: if it is another kind of adapter, reading it says so.
            try:
                storage.read_config(error.folder)
            except ArtifactError as found:
                raise ArtifactError(f"Cannot load {name!r}: {found}") from error
        prefix = f"{hub.clean_subfolder(subfolder)}/" if subfolder else ""
        here = [path[len(prefix) :] for path in error.available if path.startswith(prefix)]
        if not error.available or error.missing != storage.CONFIG:
            raise
        where = f"subfolder {subfolder!r} of the repository" if here and prefix else "repository"
        found = storage.explain(here or error.available, where)
        raise ArtifactError(f"Cannot load {name!r}: {found}") from error


def companion_files(
    path_or_repo: str | os.PathLike[str], **options: Unpack[hub.DownloadOptions]
) -> dict[str, bytes]:
    """Return what lies beside a set for people to read, as far as it is there: card and picture."""
    found: dict[str, bytes] = {}
    for name in (storage.CARD, card.PICTURE):
        with suppress(hub.MissingFileError, FileNotFoundError):
            found[name] = (hub.fetch(path_or_repo, filenames=[name], **options) / name).read_bytes()
    return found


def push(
    files: Mapping[str, bytes],
    summary: Mapping[str, Any],
    repo_id: str,
    *,
    subfolder: str | None = None,
    commit_message: str | None = None,
    **options: Unpack[hub.UploadOptions],
) -> CommitInfo:
    """Put a set's files into a Hub repository as one commit.

    Files that an earlier push left and that this set does not have are deleted in the same commit.
    A `README.md` that was not generated is left alone, and the licence in one that was is kept.

    Args:
        files: The set's files, as `save_pretrained` writes them; the card is made here.
        summary: `NeuronSet.summary()`, for the card.
        repo_id: `owner/name`.
        subfolder: Folder inside, for several sets in one repository.
        commit_message: Default: what was uploaded.
        **options: Privacy, branch, token and so on; see `hub.UploadOptions`.

    Raises:
        HubError: If it could not be uploaded, or the place belongs to something else.
    """
    folder = hub.clean_subfolder(subfolder)
    prefix = f"{folder}/" if folder else ""
    # A subfolder is not what the repository's page is about, and the Hub reads scores at the top.
    left_out = (storage.CARD, benchmark_results.FILE) if folder else (storage.CARD,)
    contents = {name: data for name, data in files.items() if name not in left_out}
    drawn = card.draw_layers(summary["layers"])
    if drawn is not None:
        contents[card.PICTURE] = drawn

    def decide(there: hub.Repository) -> hub.CommitContent:
        here = [path[len(prefix) :] for path in there.files if path.startswith(prefix)]
        _check_place(there.repo_id, here, folder)
        new = {prefix + name: data for name, data in contents.items()}
        usage: dict[str, Any] = {
            "repo_id": there.repo_id,
            "subfolder": folder,
            # A pull request will be merged into the branch that people load by default.
            "revision": None if options.get("create_pr") else options.get("revision"),
            "picture": drawn is not None,
        }

        def write(path: str, render: Callable[..., str], *of: Any, **more: Any) -> None:
            old = there.read(path).decode(errors="replace") if path in there.files else None
            if old is None or card.is_ours(old):
                new[path] = render(*of, license=card.license_of(old), **more).encode()

        write(prefix + storage.CARD, card.render, summary, **usage)
        if folder and storage.TENSORS not in there.files:
            sets = {match[1] for path in there.files if (match := _SET.fullmatch(path))} | {folder}
            write(storage.CARD, card.render_index, sorted(sets), summary, repo_id=there.repo_id)
        stale = [prefix + name for name in here if _OWN_FILES.fullmatch(name)]
        return hub.CommitContent(new, [path for path in stale if path not in new])

    repository = hub.Repository(repo_id, **options)
    return repository.commit(decide, commit_message or _title(summary["labels"], folder))


def _check_place(repo_id: str, names: list[str], folder: str | None) -> None:
    """Raise if a set's files would change what a repository is."""
    if storage.TENSORS in names:
        return
    found = None
    if storage.CONFIG in names:
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
