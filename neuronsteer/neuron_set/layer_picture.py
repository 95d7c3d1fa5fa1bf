"""The picture on a card: how many neurons of every label lie in which layer."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Mapping, Sequence

FILE = "layer_profile.png"

# More rows than this cannot be read on a card.
_LABELS = 40


def draw(layers: Mapping[str, Sequence[int]]) -> bytes | None:
    """Return a PNG, or `None` without matplotlib (extra `plots`).

    Args:
        layers: Per label the number of neurons in every layer.
    """
    if importlib.util.find_spec("matplotlib") is None:
        return None
    # Not pyplot: it keeps figures, and would choose a window system.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    labels = list(layers)[:_LABELS]
    counts = [list(layers[label]) for label in labels]
    depth = max(map(len, counts), default=1)
    figure = Figure(
        figsize=(max(4.0, min(10.0, 2.0 + 0.22 * depth)), 1.1 + 0.32 * len(labels)),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    highest = max((max(row, default=0) for row in counts), default=0)
    image = axes.imshow(
        counts, aspect="auto", cmap="viridis", vmin=0, vmax=max(1, highest), interpolation="nearest"
    )
    # parse_math: a label with a dollar sign is a name, not a formula.
    axes.set_yticks(range(len(labels)), [label[:24] for label in labels], parse_math=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("layer")
    bar = figure.colorbar(image, ax=axes, label="neurons")
    bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    out = io.BytesIO()
    # Without the version of matplotlib in it, so that the same set gives the same bytes longer.
    with warnings.catch_warnings():
        # The font may lack the letters of a label; the text profile beside the picture has them.
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()
