"""Statistics in Hub repositories: what a push replaces, and what it refuses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .. import hub
from ..errors import HubError
from ..neuron_set import card
from ..neuron_set.storage import CARD, CONFIG, TENSORS

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo
    from typing_extensions import Unpack

# What makes a repository something else, beside which statistics would only confuse.
_OTHERS = {TENSORS: "a neuron set", CONFIG: "a PEFT adapter", "config.json": "a full model"}


def push(
    files: Mapping[str, bytes],
    summary: Mapping[str, Any],
    repo_id: str,
    *,
    subfolder: str | None = None,
    commit_message: str | None = None,
    **options: Unpack[hub.UploadOptions],
) -> CommitInfo:
    """Put the files of statistics into a Hub repository as one commit.

    A `README.md` that was not generated is left alone, and the licence in one that was is kept.

    Args:
        files: The files, as `Stats.save_pretrained` writes them; the card is made here.
        summary: `Stats.summary()`, for the card.
        repo_id: `owner/name`.
        subfolder: Folder inside.
        commit_message: Default: what was uploaded.
        **options: Privacy, branch, token and so on; see `hub.UploadOptions`.

    Raises:
        HubError: If it could not be uploaded, or the place belongs to something else.
    """
    folder = hub.clean_subfolder(subfolder)
    prefix = f"{folder}/" if folder else ""

    def decide(there: hub.Repository) -> hub.CommitContent:
        found = next((kind for name, kind in _OTHERS.items() if prefix + name in there.files), None)
        if found:
            where = f"The folder {folder!r} of" if folder else "The repository"
            raise HubError(
                f"{where} {there.repo_id!r} holds {found}; expected a place for statistics. "
                "Nothing was uploaded. Choose another repository, or a folder of its own with "
                "subfolder=."
            )
        new = {prefix + name: data for name, data in files.items()}
        path = prefix + CARD
        old = there.read(path).decode(errors="replace") if path in there.files else None
        if old is None or card.is_ours(old):
            new[path] = card.render_statistics(
                summary,
                repo_id=there.repo_id,
                license=card.license_of(old),
                subfolder=folder,
                # A pull request will be merged into the branch that people load by default.
                revision=None if options.get("create_pr") else options.get("revision"),
            ).encode()
        return hub.CommitContent(new)

    return hub.Repository(repo_id, **options).commit(decide, commit_message or _title(summary))


def _title(summary: Mapping[str, Any]) -> str:
    labels = list(summary["labels"])
    shown = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
    return re.sub(r"\s+", " ", f"Upload statistics of neurons ({shown})")[:200]
