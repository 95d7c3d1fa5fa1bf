"""Bars: a number per name, in one or several series, with intervals and a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..errors import ParameterError
from .style import INK, DrawnTexts, canvas, finish, series, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Numbers = Mapping[str, float | None]
Intervals = Mapping[str, tuple[float, float] | None]

# Each bar carries its number up to this many.
_WRITTEN = 24


def bars(
    values: Numbers | Mapping[str, Numbers],
    *,
    intervals: Intervals | Mapping[str, Intervals] | None = None,
    baseline: float | None = None,
    baseline_name: str = "chance",
    title: str | None = None,
    value_name: str | None = None,
    category_name: str | None = None,
    form: str = ".3g",
    log: bool = False,
    limits: tuple[float, float] | None = None,
    horizontal: bool | None = None,
    note: str | None = None,
) -> Figure:
    """Draw a number per name.

    Args:
        values: Name → number; or series → name → number, drawn side by side. `None` leaves a gap.
        intervals: `(low, high)` in the same shape, drawn as whiskers.
        baseline: A value to compare with, drawn as a dashed line.
        baseline_name: What it is called.
        title: Title of the figure.
        value_name: What the numbers are.
        category_name: What the names are.
        form: Format of the numbers on the bars.
        log: Logarithmic axis.
        limits: Lowest and highest value of the axis.
        horizontal: Bars to the right; by default if the names are long.
        note: Small print below the figure.
    """
    groups = _grouped(values)
    whiskers: Any = intervals or {}
    if intervals and not _nested(values):
        whiskers = {"": intervals}
    names = list(dict.fromkeys(name for each in groups.values() for name in each))
    if not names:
        raise ParameterError("There is nothing to draw: `values` is empty.")
    lying = horizontal
    if lying is None:
        lying = max(map(len, names)) > 12 or len(names) * len(groups) > 60
    with styled([*names, *groups, title or ""]):
        drawn = DrawnTexts()
        texts = drawn.all(names)
        total = len(names) * len(groups)
        long = max(3.0, min(14.0, 1.4 + 0.26 * total + 0.12 * len(names)))
        figure = canvas(6.8, long) if lying else canvas(max(4.4, min(12.0, long + 2.0)), 3.2)
        axes = figure.add_subplot()
        for position, (group, numbers) in enumerate(groups.items()):
            _draw(
                axes,
                np.array([_number(numbers.get(name)) for name in names]),
                [whiskers.get(group, {}).get(name) for name in names],
                position,
                len(groups),
                lying,
                drawn(group),
                form if total <= _WRITTEN else None,
            )
        (axes.set_yticks if lying else axes.set_xticks)(range(len(names)), texts, parse_math=False)
        if lying:
            axes.invert_yaxis()
        elif max(map(len, texts)) > 5 and len(names) > 6:
            axes.tick_params(axis="x", labelrotation=30)
        if log:
            (axes.set_xscale if lying else axes.set_yscale)("log")
            # From below the smallest number, or its bar would have no length.
            least = min((n for each in groups.values() for n in each.values() if n), default=1.0)
            bottom: Any = {"left" if lying else "bottom": 0.6 * least}
            (axes.set_xlim if lying else axes.set_ylim)(**bottom)
        if limits:
            (axes.set_xlim if lying else axes.set_ylim)(*limits)
        if baseline is not None:
            line: Any = axes.axvline if lying else axes.axhline
            line(baseline, color=INK, linewidth=1, linestyle="--", label=drawn(baseline_name))
        axes.grid(axis="x" if lying else "y")
        if len(groups) > 1 or baseline is not None:
            handles, shown = axes.get_legend_handles_labels()
            kept = [(h, t) for h, t in zip(handles, shown, strict=True) if t]
            figure.legend(
                [h for h, _ in kept],
                [t for _, t in kept],
                loc="outside right center",
            )
        value, category = ("x", "y") if lying else ("y", "x")
        named = {value: value_name, category: category_name}
        finish(axes, drawn, title=title, x=named["x"], y=named["y"])
        drawn.footnote(figure, note)
    return figure


def sharing(
    counts: Mapping[int, int] | Mapping[str, Mapping[int, int]],
    *,
    title: str | None = "How many labels own a neuron",
    note: str | None = None,
) -> Figure:
    """Draw how many neurons have one owner, two, and so on.

    Args:
        counts: Number of owners → number of neurons; or set → that.
        title: Title of the figure.
        note: Small print below the figure.
    """
    nested = any(isinstance(value, Mapping) for value in counts.values())
    groups = cast("Mapping[str, Mapping[int, int]]", counts if nested else {"": counts})
    found = {int(n) for each in groups.values() for n in each}
    if not found:
        raise ParameterError("There is nothing to draw: no neuron has an owner.")
    owners = range(min(1, *found), max(found) + 1)
    numbers: dict[str, dict[str, float | None]] = {}
    for group, each in groups.items():
        known = {int(n): int(count) for n, count in each.items()}
        numbers[group] = {str(n): known.get(n, 0) for n in owners}
    positive = [n for each in numbers.values() for n in each.values() if n]
    # Neurons of many labels are few, and would not be seen beside thousands of exclusive ones.
    wide = bool(positive) and max(positive) > 100 * min(positive)
    return bars(
        numbers,
        title=title,
        value_name="neurons (logarithmic)" if wide else "neurons",
        category_name="owners",
        form=",.0f",
        log=wide,
        horizontal=False,
        note=note,
    )


def _draw(
    axes: Axes,
    numbers: np.ndarray,
    whiskers: Sequence[tuple[float, float] | None],
    position: int,
    groups: int,
    lying: bool,
    label: str,
    form: str | None,
) -> None:
    look = series(position)
    thick = 0.8 / groups
    where = np.arange(len(numbers)) + (position - (groups - 1) / 2) * thick
    draw: Any = axes.barh if lying else axes.bar
    draw(
        where,
        np.nan_to_num(numbers),
        thick * 0.94,
        color=look.colour,
        hatch=look.hatch,
        edgecolor="white",
        linewidth=0.4,
        label=label,
    )
    tops = numbers.copy()
    for place, number, whisker in zip(where, numbers, whiskers, strict=True):
        if whisker is None or not np.isfinite(number):
            continue
        low, high = whisker
        tops[np.flatnonzero(where == place)] = max(high, number)
        ends = [[max(0.0, number - low)], [max(0.0, high - number)]]
        error: Any = {"xerr" if lying else "yerr": ends}
        at = (number, place) if lying else (place, number)
        axes.errorbar(*at, **error, color=INK, capsize=2.5, linewidth=1)
    if form is None:
        return
    for place, number, top in zip(where, numbers, tops, strict=True):
        # A gap says that there is no number; a bar of no length, that it is zero.
        text = format(number, form).replace("-", "\u2212") if np.isfinite(number) else "–"
        end = top if np.isfinite(top) and top > 0 else 0.0
        axes.annotate(
            text,
            (end, place) if lying else (place, end),
            xytext=(3, 0) if lying else (0, 2),
            textcoords="offset points",
            ha="left" if lying else "center",
            va="center" if lying else "bottom",
            fontsize=7,
        )
    margin: Any = {"x" if lying else "y": 0.1}
    axes.margins(**margin)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _nested(values: Mapping[str, Any]) -> bool:
    return any(isinstance(value, Mapping) for value in values.values())


def _grouped(values: Numbers | Mapping[str, Numbers]) -> dict[str, Numbers]:
    if not _nested(values):
        return {"": cast("Numbers", values)}
    return {str(name): cast("Numbers", value) for name, value in values.items()}
