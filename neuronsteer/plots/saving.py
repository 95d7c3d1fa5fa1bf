"""Writing figures: files for a paper, bytes for a page."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError
from ..hub import write_folder
from .style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 160
FORMATS = ("png", "svg")

# No date and no version in the file, so that the same numbers give the same bytes.
_METADATA: dict[str, dict[str, Any]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(
    figure: Figure, path: str | os.PathLike[str], formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Write a figure, each file at once and whole; missing folders are made.

    Args:
        figure: What a function of this package returned, or any matplotlib figure.
        path: File name. With an ending `.png`, `.svg` or `.pdf` only that is written, without one a
            file of every format.
        formats: Formats if `path` has no such ending.

    Returns:
        The files, in the order of the formats.
    """
    target = Path(path).expanduser()
    ending = target.suffix[1:].lower()
    kinds = {target.name: ending} if ending in _METADATA else {}
    for kind in () if kinds else formats:
        if kind not in _METADATA:
            raise ParameterError(
                f"Cannot save a figure as {kind!r}; expected {', '.join(_METADATA)}."
            )
        kinds[f"{target.name}.{kind}"] = kind
    files = {name: _rendered(figure, kind) for name, kind in kinds.items()}
    folder = write_folder(target.parent, files)
    return [folder / name for name in files]


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG."""
    return _rendered(figure, "png")


def svg(figure: Figure) -> str:
    """Return the figure as an SVG element, without the XML declaration, to be put into a page."""
    text = _rendered(figure, "svg").decode("utf-8")
    return text[text.index("<svg") :]


def _rendered(figure: Figure, kind: str) -> bytes:
    from matplotlib.text import Text

    found: Any = figure.findobj(Text)
    texts = [each.get_text() for each in found]
    out = io.BytesIO()
    # Ticks are made while drawing, so drawing needs the style as well.
    with styled(texts):
        figure.savefig(out, format=kind, dpi=DPI, metadata=_METADATA[kind])
    return out.getvalue()
