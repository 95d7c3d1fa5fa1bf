"""Shares that add up, layer by layer: one panel of stacked bars per group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError
from .profiles import positions, stacked, step
from .style import Lettering, canvas, entitle, series, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shares(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    title: str | None = None,
    value_name: str = "share",
    layer_name: str = "layer",
    pale: str | None = None,
    note: str | None = None,
) -> Figure:
    """Draw how something is divided in every layer.

    Args:
        panels: Panel → part → one share per layer. All panels have the same parts.
        title: Title of the figure.
        value_name: What the shares are of.
        layer_name: What the positions are.
        pale: A part to leave in gray, e.g. what could not be told.
        note: Small print below the figure.
    """
    names = list(panels)
    parts = list(next(iter(panels.values()), {}))
    depths = {len(each) for panel in panels.values() for each in panel.values()}
    if not parts or len(depths) != 1 or any(list(panel) != parts for panel in panels.values()):
        raise ParameterError("Shares need panels with the same parts, each with every layer.")
    depth = depths.pop()
    columns = 1 if len(names) < 4 else 2
    rows = -(-len(names) // columns)
    with styled([*names, *parts, title or ""]):
        lettering = Lettering()
        looks = [series(position) for position in range(len(parts))]
        figure = canvas(max(5.2, min(10.0, (2.2 + 0.12 * depth) * columns)), 1.2 + 1.35 * rows)
        grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, names, strict=False):
            table = np.asarray([panels[name][part] for part in parts], dtype=np.float64)
            for part, look, height, bottom in stacked(table, parts, looks):
                gray = part == pale
                colour, hatch = ("#ececec", "") if gray else (look.colour, look.hatch)
                step(axes, height, bottom, lettering(part), colour, hatch)
            axes.set_ylim(0, max(1e-12, float(np.nansum(table, 0).max())))
            axes.set_title(lettering(name), loc="left")
            positions(axes, list(range(depth)), depth)
        for axes in grid[-1]:
            axes.set_xlabel(lettering(layer_name))
        if len(names) % columns:
            grid[-2][-1].tick_params(labelbottom=True)
        figure.supylabel(lettering(value_name), fontsize=9)
        handles, texts = grid[0][0].get_legend_handles_labels()
        figure.legend(handles[::-1], texts[::-1], loc="outside right center")
        if title:
            entitle(figure, lettering(title))
        lettering.footnote(figure, note)
    return figure
