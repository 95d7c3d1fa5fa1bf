"""One look for every figure: sizes, and series that differ in more than their colour."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import require
from . import fonts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Low is light, so that a print is mostly paper; lightness falls all the way.
SEQUENTIAL = "YlGnBu"
#: White in the middle. Both ends are dark in gray: what is negative is hatched as well.
DIVERGING = "RdBu_r"
INK, PALE = "#222222", "#8a8a8a"

# Okabe and Ito's colours without the yellow, ordered so that neighbours differ in lightness.
_COLOURS = ("#0072B2", "#E69F00", "#117755", "#CC79A7", "#222222", "#56B4E9", "#B03A2E", "#9AA03C")
_MARKERS = "osD^vPX*<>hp"
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (7, 2)), (0, (3, 3)))
_HATCHES = ("", "//", "..", "xx", "\\\\", "--", "oo", "++")

# matplotlib's settings are global to the process.
_LOCK = threading.RLock()


class Series(NamedTuple):
    """How the n-th series of a figure looks."""

    colour: str
    marker: str
    dash: Any
    hatch: str


def series(position: int) -> Series:
    """Return the look of a series; the first eight differ in everything, then combinations do."""
    n = len(_COLOURS)
    return Series(
        _COLOURS[position % n],
        _MARKERS[position % len(_MARKERS)],
        _DASHES[position % len(_DASHES)],
        # Shifted in the second round, so that the same colour gets another hatch.
        _HATCHES[(position + position // n) % len(_HATCHES)],
    )


@contextmanager
def styled(texts: Sequence[str] = ()) -> Generator[None, None, None]:
    """Set matplotlib up for our look, and for the letters of `texts`, inside the block.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    matplotlib: Any = require("matplotlib", "plots", "Drawing a plot")
    with _LOCK:
        settings = {
            "font.family": fonts.families(texts),
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 3,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "axes.unicode_minus": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "hatch.linewidth": 0.6,
            "legend.frameon": False,
            "legend.fontsize": 8.5,
            "lines.linewidth": 1.5,
            "lines.markersize": 4.5,
            "text.color": INK,
            # A label with a dollar sign is a name, not a formula.
            "text.parse_math": False,
            "xtick.color": INK,
            "ytick.color": INK,
            # The same figure gives the same bytes.
            "svg.hashsalt": "neuronsteer",
        }
        with matplotlib.rc_context(settings):
            yield


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of this size in inches, outside pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


class DrawnTexts:
    """The texts of one figure as they are drawn, and whether some had to be replaced."""

    def __init__(self) -> None:
        self.replaced = False

    def __call__(self, text: object) -> str:
        """Return what to draw for a text."""
        given = str(text)
        found = fonts.shown(given)
        self.replaced |= not fonts.same_letters(given, found)
        return found

    def all(self, texts: Sequence[object]) -> list[str]:
        """Return what to draw for each text."""
        return [self(text) for text in texts]

    def footnote(self, figure: Figure, note: str | None = None) -> None:
        """Write the note, and the one on replaced labels, below the figure."""
        notes = [self(note)] if note else []
        if self.replaced:
            notes.append("Codes stand for labels whose script no installed font has.")
        if notes:
            # A label of the figure itself: constrained layout keeps room for it.
            figure.supxlabel(
                "  ".join(notes), fontsize=7.5, color=PALE, x=0.01, ha="left", wrap=True
            )


def add_title(figure: Any, title: str) -> None:
    """Write a title over the whole width of the figure, in as many lines as it needs."""
    # A bold letter of this size is about 0.093 inches wide.
    lines = textwrap.wrap(title, max(16, int(figure.get_figwidth() / 0.093)))
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10.5, fontweight="bold")


def finish(
    axes: Axes,
    drawn: DrawnTexts,
    *,
    title: str | None = None,
    x: str | None = None,
    y: str | None = None,
) -> None:
    """Write the title of the figure and the names of the axes."""
    if title:
        add_title(axes.figure, drawn(title))
    if x:
        axes.set_xlabel(drawn(x))
    if y:
        axes.set_ylabel(drawn(y))
