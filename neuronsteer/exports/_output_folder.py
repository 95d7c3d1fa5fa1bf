"""The folder that an export writes: whether it may and can be written, and its README.md."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import HubError, ParameterError
from ..hub import check_output
from ..neuron_set.card import hub_id, languages
from ..neuron_set.markdown_text import code, inline
from ..neuron_set.storage import package_version
from ._edits import ModelEdit

CARD = "README.md"
# Only folders with this line in their card are ever replaced.
MARK = "<!-- exported by neuronsteer -->"
# What configs, cards and the file system's own bookkeeping take beside the weights.
_MARGIN = 4 << 20


def check_free(directory: Path, overwrite: bool) -> None:
    """Raise unless `directory` can be made, or is an export that may be replaced."""
    if directory.is_symlink():
        raise ParameterError(f"{str(directory)!r} is a link, not a folder; choose another one.")
    # Replacing deletes what is there, and a mistyped path may be a home folder.
    check_output(directory, "an export", _is_export, overwrite=overwrite)


def _is_export(directory: Path) -> bool:
    card = directory / CARD
    return card.is_file() and MARK in card.read_text(encoding="utf-8", errors="replace")


def check_space(directory: Path, size: int) -> None:
    """Raise if `size` bytes do not fit on the disk of `directory`."""
    folder = next(each for each in directory.parents if each.exists())
    free = shutil.disk_usage(folder).free
    if size + _MARGIN > free:
        raise HubError(
            f"Not enough disk space at {os.fspath(folder)!r}: about {_human(size)} are needed and "
            f"{_human(free)} are free. Nothing was written; free some space or choose another disk."
        )


def _human(size: int) -> str:
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def render_card(
    edit: ModelEdit,
    *,
    relation: str,
    library: str,
    usage: str,
    notes: list[str],
    loading: str = "Loading needs no neuronsteer:",
    exact: bool = True,
) -> str:
    """Return the text of the card.

    Args:
        edit: What was exported.
        relation: `base_model_relation` of the Hub: `"finetune"` or `"adapter"`.
        library: `library_name` of the Hub.
        usage: Code or commands that load it.
        notes: What else a reader should know.
        loading: What is said before the code.
        exact: Whether the export does all of what steering with hooks does.
    """
    from huggingface_hub import ModelCardData

    base = hub_id(edit.base.hub_id or edit.sets[0].base_model)
    label = edit.state.label
    facts: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "tags": ["neuronsteer", "steering", "language-neurons"],
        "language": (languages([label]) if label else None) or None,
    }
    if base:
        facts |= {"base_model": base, "base_model_relation": relation}
    method = edit.sets[0].method["name"]
    neurons = sum(len(projection.columns) for projection in edit.projections)
    layers = len({projection.point.layer for projection in edit.projections})
    remarks = "".join(f"- {note}\n" for note in notes)
    if exact:
        remarks += (
            "- Exact up to rounding: the same as steering with hooks, measured by neuronsteer's\n"
            "  `benchmarks/export_equality.py`.\n"
        )
    return f"""---
{ModelCardData(**facts).to_yaml().strip()}
---

{MARK}
# {inline(base or edit.model_type)}: {inline(edit.text)}

{neurons:,} MLP neurons in {layers} layers are changed; nothing else is. They were found with the
method {code(method)}. {loading}

{usage}

{remarks}- The licence of the base model applies.
- Written by neuronsteer {package_version()}. Set fingerprint: `{edit.sets[0].fingerprint[:16]}`.
"""


def python_block(code: str) -> str:
    """Return a fenced block of Python."""
    return f"```python\n{code.strip()}\n```"
