"""Something per layer: lines, one panel per label, stacked shares, or a heat map.

And shares that add up in every layer, one panel of stacked bars per group.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError
from .matrices import heatmap
from .style import PALE, DrawnTexts, Series, add_title, canvas, finish, series, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = ("lines", "panels", "stack", "heatmap")
Span = tuple[int, int, str]

# More lines than this cross too often to be followed; more panels do not fit on a page.
_LINES, _PANELS = 5, 16


def layer_profile(
    profiles: Mapping[str, Sequence[float | None]],
    *,
    title: str | None = None,
    value_name: str = "neurons",
    layer_name: str = "layer",
    kind: str | None = None,
    spans: Sequence[Span] = (),
    limits: tuple[float, float] | None = None,
    note: str | None = None,
) -> Figure:
    """Draw one number per label and layer.

    Args:
        profiles: Label → one value per layer; `None` leaves a gap.
        title: Title of the figure.
        value_name: What the numbers are.
        layer_name: What the positions are.
        kind: `"lines"`, `"panels"` (bars, one panel per label), `"stack"` (shares on top of each
            other) or `"heatmap"`; by default the first that stays readable.
        spans: Stretches of layers to mark: `(first, last, name)`.
        limits: Lowest and highest value of the axis.
        note: Small print below the figure.
    """
    labels = list(profiles)
    lengths = {len(profiles[label]) for label in labels}
    if len(lengths) != 1 or 0 in lengths:
        raise ParameterError(
            "A layer profile needs labels with the same number of layers; got "
            + (", ".join(f"{name}: {len(profiles[name])}" for name in labels) or "none")
            + "."
        )
    chosen = kind or _readable(len(labels))
    if chosen not in KINDS:
        raise ParameterError(f"kind={kind!r} is none of {', '.join(KINDS)}.")
    depth = lengths.pop()
    names = list(range(depth))
    table = np.array([profiles[label] for label in labels], dtype=np.float64)
    if chosen == "heatmap":
        return heatmap(
            table,
            labels,
            names,
            title=title,
            column_name=layer_name,
            value_name=value_name,
            form=".3g",
            annotate=False,
            limits=limits or (min(0.0, float(np.nanmin(table))), float(np.nanmax(table))),
            note=note,
        )
    with styled([*labels, title or "", *(name for _, _, name in spans)]):
        drawn = DrawnTexts()
        texts = drawn.all(labels)
        width = max(4.8, min(9.0, 3.2 + 0.18 * depth))
        if chosen == "panels":
            figure = _panels(table, texts, width, limits, value_name, layer_name, title, drawn)
        else:
            figure = canvas(width, 3.4 + (0.18 * max(0, len(labels) - 12)))
            axes = figure.add_subplot()
            (_lines if chosen == "lines" else _stack)(axes, table, texts)
            if limits:
                axes.set_ylim(*limits)
            elif chosen == "stack":
                axes.set_ylim(0, max(1e-12, float(np.nansum(table, 0).max())))
            axes.margins(x=0.02)
            if chosen == "lines":
                axes.grid(axis="y")
            handles, shown = axes.get_legend_handles_labels()
            if len(labels) > 1:
                # Beside the axes, in the order of the stack from the top.
                turn = -1 if chosen == "stack" else 1
                figure.legend(handles[::turn], shown[::turn], loc="outside right center")
            finish(axes, drawn, title=title, x=layer_name, y=value_name)
        for axes in figure.axes:
            _positions(axes, names, depth)
            _mark(axes, spans, drawn, first=axes is figure.axes[0])
        drawn.footnote(figure, note)
    return figure


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
        drawn = DrawnTexts()
        looks = [series(position) for position in range(len(parts))]
        figure = canvas(max(5.2, min(10.0, (2.2 + 0.12 * depth) * columns)), 1.2 + 1.35 * rows)
        grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes in grid.flat[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(grid.flat, names, strict=False):
            table = np.asarray([panels[name][part] for part in parts], dtype=np.float64)
            for part, look, height, bottom in _stacked(table, parts, looks):
                gray = part == pale
                colour, hatch = ("#ececec", "") if gray else (look.colour, look.hatch)
                _step(axes, height, bottom, drawn(part), colour, hatch)
            axes.set_ylim(0, max(1e-12, float(np.nansum(table, 0).max())))
            axes.set_title(drawn(name), loc="left")
            _positions(axes, list(range(depth)), depth)
        for axes in grid[-1]:
            axes.set_xlabel(drawn(layer_name))
        if len(names) % columns:
            grid[-2][-1].tick_params(labelbottom=True)
        figure.supylabel(drawn(value_name), fontsize=9)
        handles, texts = grid[0][0].get_legend_handles_labels()
        figure.legend(handles[::-1], texts[::-1], loc="outside right center")
        if title:
            add_title(figure, drawn(title))
        drawn.footnote(figure, note)
    return figure


def _readable(labels: int) -> str:
    if labels <= _LINES:
        return "lines"
    return "panels" if labels <= _PANELS else "heatmap"


def _lines(axes: Axes, table: np.ndarray, texts: Sequence[str]) -> None:
    depth = table.shape[1]
    for position, (text, row) in enumerate(zip(texts, table, strict=True)):
        look = series(position)
        axes.plot(
            range(depth),
            row,
            color=look.colour,
            linestyle=look.dash,
            marker=look.marker,
            # On a deep model every third layer, each series at other ones.
            markevery=(position % max(1, depth // 12), max(1, depth // 12)),
            label=text,
        )


def _stack(axes: Axes, table: np.ndarray, texts: Sequence[str]) -> None:
    looks = [series(position) for position in range(len(texts))]
    for text, look, height, bottom in _stacked(table, texts, looks):
        _step(axes, height, bottom, text, look.colour, look.hatch)


def _stacked(
    table: np.ndarray, texts: Sequence[str], looks: Sequence[Series]
) -> Generator[tuple[str, Series, np.ndarray, np.ndarray], None, None]:
    """Yield the name, look, height and lower edge of every row, put on top of those before."""
    bottom = np.zeros(table.shape[1])
    for text, look, row in zip(texts, looks, np.nan_to_num(table), strict=True):
        yield text, look, row, bottom
        bottom = bottom + row


def _step(
    axes: Axes, height: np.ndarray, bottom: np.ndarray, label: str, colour: str, hatch: str
) -> None:
    """Draw one row of a stack: a single outline, because thousands of hatched bars take minutes."""
    axes.stairs(
        bottom + height,
        np.arange(len(height) + 1) - 0.5,
        baseline=bottom,
        fill=True,
        facecolor=colour,
        hatch=hatch,
        edgecolor="white",
        linewidth=0.4,
        label=label,
    )


def _panels(
    table: np.ndarray,
    texts: Sequence[str],
    width: float,
    limits: tuple[float, float] | None,
    value_name: str,
    layer_name: str,
    title: str | None,
    drawn: DrawnTexts,
) -> Figure:
    columns = 2 if len(texts) > 3 else 1
    rows = -(-len(texts) // columns)
    figure = canvas(width, 1.1 + 1.1 * rows)
    grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    high = float(np.nanmax(table)) if np.isfinite(table).any() else 1.0
    for position, axes in enumerate(grid.flat):
        if position >= len(texts):
            axes.set_visible(False)
            continue
        axes.bar(range(table.shape[1]), np.nan_to_num(table[position]), width=0.85, color="#0072B2")
        axes.set_ylim(*(limits or (min(0.0, float(np.nanmin(table))), high * 1.08 or 1.0)))
        axes.grid(axis="y")
        axes.set_title(texts[position], loc="left")
    for axes in grid[-1]:
        axes.set_xlabel(drawn(layer_name))
    if len(texts) % columns:
        # The last column is one shorter: its lowest panel carries the numbers.
        grid[-2][-1].tick_params(labelbottom=True)
    figure.supylabel(drawn(value_name), fontsize=9)
    if title:
        add_title(figure, drawn(title))
    return figure


def _positions(axes: Axes, names: Sequence[object], depth: int) -> None:
    """Name the layers below the axes, as many as there is room for."""
    step = max(1, -(-depth // 17))
    if step == 3:
        step = 4  # 0, 4, 8 … is what one expects of 32 layers and more
    axes.set_xticks(range(0, depth, step), [str(name) for name in names[::step]])
    axes.set_xlim(-0.7, depth - 0.3)


def _mark(axes: Axes, spans: Sequence[Span], drawn: DrawnTexts, first: bool) -> None:
    names = drawn.all([name for _, _, name in spans])
    left, right = axes.get_xlim()
    figure: Any = axes.figure
    layer = 0.75 * figure.get_figwidth() / (right - left)
    # Names wider than their stretch stand on two levels.
    narrow = any(
        0.075 * len(name) > layer * (end - start + 1)
        for name, (start, end, _) in zip(names, spans, strict=True)
    )
    for position, (name, (start, end, _)) in enumerate(zip(names, spans, strict=True)):
        if position:
            axes.axvline(start - 0.5, color=PALE, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0.5)
        if first:
            axes.annotate(
                name,
                ((start + end) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 11 if narrow and position % 2 else 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=7.5,
                color=PALE,
                annotation_clip=False,
            )
