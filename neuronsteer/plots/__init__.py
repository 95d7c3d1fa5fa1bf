"""Plots: a few kinds of figure in one style, readable in grayscale and in any script.

Every function takes plain numbers and names and returns a `matplotlib.figure.Figure`; `save` writes
it as PNG and SVG, `png` and `svg` return it for a page. matplotlib (extra `plots`) is imported when
the first figure is drawn, never by importing this package, and pyplot never: no window, no figure
that stays in memory.

Colours differ in lightness too, and every series has a marker, a dash or a hatch of its own. Labels
in scripts that no installed font has are shown by language code or transcription; the figure says
so in a footnote, and the log says which.
"""

from .counting import bars, sharing
from .frontiers import frontier
from .matrices import heatmap, overlap
from .profiles import layer_profile, shares
from .saving import png, save, svg

__all__ = [
    "bars",
    "frontier",
    "heatmap",
    "layer_profile",
    "overlap",
    "png",
    "save",
    "shares",
    "sharing",
    "svg",
]
