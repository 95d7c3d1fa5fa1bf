"""The metrics' folders to the Hub, as Spaces that `evaluate.load("owner/lss")` finds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...errors import HubError
from ...hub import hub_error
from ...registry import Registry
from . import METRICS
from .evaluate_library import files

_TAG = "neuronsteer"


def push(
    owner: str,
    names: Sequence[str] = (),
    *,
    private: bool | None = None,
    prefix: str = "",
    token: str | bool | None = None,
) -> dict[str, str]:
    """Create a Space for every metric, or update it, each as one commit; return the addresses.

    A Space that is there and is something else (no tag `neuronsteer` in its README.md) is refused.

    Args:
        owner: User or organisation.
        names: Metrics; default: all.
        private: Make new Spaces private.
        prefix: Put before the names of the Spaces.
        token: Hub token; default: the stored one.

    Raises:
        UnknownNameError: If there is no such metric.
        HubError: If one could not be made; it is then as it was, those before it are done.
    """
    chosen = list(names) or known(METRICS)
    # Everything is there before anything is sent.
    ready = {name: files(name) for name in chosen}
    return {
        name: _push(f"{owner}/{prefix}{name}", name, content, private, token)
        for name, content in ready.items()
    }


def known(metrics: Registry[Any]) -> list[str]:
    """Return the metrics of this package; plugins publish their own."""
    package = __name__.rpartition(".")[0]
    return [name for name, kind in metrics.items() if kind.__module__.startswith(package + ".")]


def _push(
    repo_id: str,
    name: str,
    content: dict[str, str],
    private: bool | None,
    token: str | bool | None,
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api: Any = HfApi(token=token, library_name="neuronsteer")
    try:
        made = api.create_repo(
            repo_id, repo_type="space", space_sdk="static", private=private, exist_ok=True
        )
        info = api.repo_info(made.repo_id, repo_type="space")
        there = {each.rfilename for each in info.siblings or []}
        card = getattr(info, "card_data", None)
        tags = (card.to_dict().get("tags") or []) if card is not None else []
        if there - {".gitattributes", "README.md", "index.html", "style.css"} and _TAG not in tags:
            raise HubError(
                f"The Space {repo_id!r} exists and holds something else: its README.md has no tag "
                f"{_TAG!r}. Nothing was changed. Take another owner or --prefix."
            )
        if private and not getattr(info, "private", False):
            raise HubError(
                f"The Space {repo_id!r} exists and is public, but private was asked for. Nothing "
                "was changed. Make it private in its settings, or take another name."
            )
        api.create_commit(
            made.repo_id,
            [CommitOperationAdd(path, text.encode()) for path, text in content.items()],
            commit_message=f"The metric {name}, as neuronsteer computes it",
            repo_type="space",
            parent_commit=info.sha,
        )
    except Exception as error:
        raise hub_error(error, repo_id, kind="space", writing=True) from error
    return f"{api.endpoint}/spaces/{made.repo_id}"
