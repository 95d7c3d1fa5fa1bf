"""Tables of numbers as colours: heat maps, and overlap between labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError
from .style import DIVERGING, INK, SEQUENTIAL, DrawnTexts, canvas, finish, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Up to so many cells the number is written into each.
_WRITTEN = 256
# Up to so many columns every one is named.
_NAMED = 40


def heatmap(
    values: Any,
    rows: Sequence[object],
    columns: Sequence[object],
    *,
    title: str | None = None,
    row_name: str | None = None,
    column_name: str | None = None,
    value_name: str | None = None,
    form: str = ".2f",
    annotate: bool | None = None,
    limits: tuple[float, float] | None = None,
    center: float | None = None,
    note: str | None = None,
) -> Figure:
    """Draw a table of numbers.

    Cells that are `None` or not a number are crossed out. With `center`, colours diverge from it
    and cells below it are hatched, so that a grayscale print still tells the sides apart.

    Args:
        values: `[rows][columns]`, anything NumPy reads; `None` where there is no number.
        rows: Name of each row, top to bottom.
        columns: Name of each column.
        title: Title of the figure.
        row_name: What the rows are.
        column_name: What the columns are.
        value_name: What the numbers are; written beside the colour bar.
        form: Format of the numbers in the cells.
        annotate: Write the numbers into the cells; by default if there are at most 256.
        limits: Values of the lightest and the darkest colour; by default the smallest and largest.
        center: The value that is neither good nor bad, e.g. 0 for changes.
        note: Small print below the figure.
    """
    table = matrix(values, rows, columns)
    count_rows, count_columns = table.shape
    written = count_rows * count_columns <= _WRITTEN if annotate is None else annotate
    with styled([*map(str, (*rows, *columns)), title or ""]):
        drawn = DrawnTexts()
        row_texts, column_texts = drawn.all(rows), drawn.all(columns)
        widest = max([len(text) for text in row_texts], default=1)
        cell = 0.46 if written else max(0.14, min(0.4, 7 / max(1, count_columns)))
        width = 1.9 + 0.07 * widest + cell * max(4, count_columns)
        height = 1.2 + (0.34 if count_rows <= 40 else 0.2) * max(3, count_rows)
        figure = canvas(max(3.8, min(width, 16)), max(2.0, min(height, 14)))
        axes = figure.add_subplot()
        image = _painted(axes, table, limits, center)
        _name_columns(axes, column_texts)
        axes.set_yticks(range(count_rows), row_texts, parse_math=False)
        if written:
            _write(axes, table, image, form)
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02)
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
        if value_name:
            bar.set_label(drawn(value_name))
        finish(axes, drawn, title=title, x=column_name, y=row_name)
        drawn.footnote(figure, note)
    return figure


def overlap(
    values: Any,
    labels: Sequence[object],
    *,
    groups: Mapping[str, str] | None = None,
    title: str | None = "Overlap (Jaccard)",
    value_name: str | None = "neurons in both / in either",
    form: str = ".2f",
    note: str | None = None,
) -> Figure:
    """Draw how much every two labels share.

    The diagonal is crossed out: it is 1 by definition and would leave no colour for the rest.

    Args:
        values: `[labels][labels]`.
        labels: The labels.
        groups: Label → group, e.g. its script or family; groups are put together, in the order of
            their first label, and separated by lines.
        title: Title of the figure.
        value_name: What the numbers are.
        form: Format of the numbers in the cells.
        note: Small print below the figure.
    """
    table = matrix(values, labels, labels)
    np.fill_diagonal(table, np.nan)
    order = list(range(len(labels)))
    names = [str(label) for label in labels]
    found = [(groups or {}).get(name, "") for name in names]
    order.sort(key=lambda i: found.index(found[i]))
    rows = [f"{names[i]} · {found[i]}" if found[i] else names[i] for i in order]
    figure = heatmap(
        table[np.ix_(order, order)],
        rows,
        [names[i] for i in order],
        title=title,
        value_name=value_name,
        form=form,
        limits=(0.0, float(np.nanmax(table)) if np.isfinite(table).any() else 1.0),
        note=note,
    )
    axes = figure.axes[0]
    for position in range(1, len(order)):
        if found[order[position]] != found[order[position - 1]]:
            axes.axhline(position - 0.5, color=INK, linewidth=0.9)
            axes.axvline(position - 0.5, color=INK, linewidth=0.9)
    return figure


def matrix(values: Any, rows: Sequence[object], columns: Sequence[object]) -> np.ndarray:
    """Return the values as floats with NaN for None, or raise if names and shape differ."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    try:
        table = np.array(values, dtype=np.float64, ndmin=2)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"These values are not a table of numbers: {error}.") from error
    if table.shape != (len(rows), len(columns)) or not table.size:
        raise ParameterError(
            f"The table has the shape {table.shape}, but there are names for {len(rows)} rows and "
            f"{len(columns)} columns."
        )
    table[~np.isfinite(table)] = np.nan
    return table


def _painted(
    axes: Axes, table: np.ndarray, limits: tuple[float, float] | None, center: float | None
) -> Any:
    known = table[np.isfinite(table)]
    low, high = limits or ((float(known.min()), float(known.max())) if known.size else (0.0, 1.0))
    if center is not None:
        reach = max(abs(high - center), abs(low - center)) or 1.0
        low, high = center - reach, center + reach
    if low >= high:
        # One number only: a scale that it is on.
        low, high = min(low, 0.0), max(high, low + 1.0) if high <= 0 else high
    image = axes.imshow(
        np.ma.masked_invalid(table),
        aspect="auto",
        cmap=SEQUENTIAL if center is None else DIVERGING,
        vmin=low,
        vmax=high,
        interpolation="nearest",
    )
    _hatch(axes, ~np.isfinite(table), "xx", "#bbbbbb")
    if center is not None:
        with np.errstate(invalid="ignore"):
            _hatch(axes, table < center - 0.02 * (high - low), "///", "#00000055")
    return image


def _hatch(axes: Axes, where: np.ndarray, hatch: str, colour: str) -> None:
    from matplotlib.patches import Rectangle

    for row, column in np.argwhere(where).tolist():
        axes.add_patch(
            Rectangle(
                (column - 0.5, row - 0.5),
                1,
                1,
                fill=False,
                hatch=hatch,
                edgecolor=colour,
                linewidth=0,
            )
        )


def _name_columns(axes: Axes, texts: Sequence[str]) -> None:
    count = len(texts)
    step = -(-count // _NAMED)
    slanted = max(map(len, texts)) > 4 and count > 3
    axes.set_xticks(
        range(0, count, step),
        list(texts[::step]),
        rotation=40 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
        parse_math=False,
    )


def _write(axes: Axes, table: np.ndarray, image: Any, form: str) -> None:
    from matplotlib.patheffects import withStroke

    for (row, column), value in np.ndenumerate(table):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = image.cmap(image.norm(value))
        dark = 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.5
        text = axes.text(
            column,
            row,
            # A true minus, as on the axes.
            format(value, form).replace("-", "\u2212"),
            ha="center",
            va="center",
            fontsize=7.5,
            color="white" if dark else INK,
        )
        if value < image.norm.vmin or (image.norm.vmin < 0 and value < 0):
            # Over a hatch the number needs a ground of its own.
            ground = image.cmap(image.norm(value))
            text.set_path_effects([withStroke(linewidth=2.2, foreground=ground)])
