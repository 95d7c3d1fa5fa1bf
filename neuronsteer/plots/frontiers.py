"""Trade-offs: two numbers per setting, and the settings that nothing else beats in both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ParameterError, did_you_mean
from .style import PALE, DrawnTexts, canvas, finish, series, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Beyond this, names of points would lie on top of each other.
_NAMED = 40


def frontier(
    points: Iterable[Mapping[str, Any]],
    *,
    x: str = "success",
    y: str = "fluency",
    group: str | None = "method",
    name: str | None = None,
    better: tuple[str, str] = ("higher", "higher"),
    title: str | None = None,
    x_name: str | None = None,
    y_name: str | None = None,
    limits: tuple[tuple[float, float] | None, tuple[float, float] | None] = (None, None),
    note: str | None = None,
) -> Figure:
    """Draw settings by two numbers, filled where no other setting is better in both.

    Points of a group are joined in the given order, e.g. of growing strength.

    Args:
        points: Records that hold the two numbers; those where one is `None` are left out.
        x: Key of the number to the right.
        y: Key of the number upwards.
        group: Key that tells series apart; `None` for a single one.
        name: Key of what is written beside each point.
        better: Whether `"higher"` or `"lower"` is better, for x and y.
        title: Title of the figure.
        x_name: Name of the x axis; by default the key.
        y_name: Name of the y axis; by default the key.
        limits: Ends of the axes.
        note: Small print below the figure.
    """
    for each in better:
        if each not in ("higher", "lower"):
            raise ParameterError(f"better={better!r}; expected 'higher' or 'lower' for x and y.")
    records = [dict(point) for point in points]
    for key in (x, y, group, name):
        for record in records:
            if key is not None and key not in record:
                raise ParameterError(
                    f"A point has no {key!r}; it has {', '.join(record)}."
                    f"{did_you_mean(key, record)}"
                )
    kept = [record for record in records if record[x] is not None and record[y] is not None]
    if not kept:
        raise ParameterError(f"There is nothing to draw: no point has both {x!r} and {y!r}.")
    best = set(unbeaten([(float(r[x]), float(r[y])) for r in kept], better))
    groups: dict[str, list[int]] = {}
    for position, record in enumerate(kept):
        groups.setdefault("" if group is None else str(record[group]), []).append(position)
    written = [str(record[name]) for record in kept] if name and len(kept) <= _NAMED else []
    with styled([*groups, *written, title or ""]):
        drawn = DrawnTexts()
        figure = canvas(5.6, 4.0)
        axes = figure.add_subplot()
        for position, (label, members) in enumerate(groups.items()):
            look = series(position)
            across = [float(kept[i][x]) for i in members]
            up = [float(kept[i][y]) for i in members]
            axes.plot(across, up, color=look.colour, linestyle=look.dash, linewidth=1, alpha=0.7)
            axes.scatter(
                across,
                up,
                s=42,
                marker=look.marker,
                facecolors=[look.colour if i in best else "white" for i in members],
                edgecolors=look.colour,
                linewidths=1.3,
                label=drawn(label),
                zorder=3,
            )
        for record, text in zip(kept, written, strict=bool(written)):
            axes.annotate(
                drawn(text),
                (float(record[x]), float(record[y])),
                xytext=(5, 4),
                textcoords="offset points",
                fontsize=7,
                color=PALE,
            )
        axes.grid()
        axes.margins(0.08)
        if limits[0]:
            axes.set_xlim(*limits[0])
        if limits[1]:
            axes.set_ylim(*limits[1])
        if len(groups) > 1:
            legend = figure.legend(loc="outside right center")
            for handle in legend.legend_handles:
                if handle is not None:
                    # Filled or not is a fact about points, not about the series.
                    handle.set_facecolor("white")  # pyright: ignore[reportAttributeAccessIssue]
        arrows = {"higher": "higher is better", "lower": "lower is better"}
        finish(
            axes,
            drawn,
            title=title,
            x=f"{x_name or x} ({arrows[better[0]]})",
            y=f"{y_name or y} ({arrows[better[1]]})",
        )
        said = "Filled: no other setting is at least as good in both and better in one."
        drawn.footnote(figure, f"{said} {note}" if note else said)
    return figure


def unbeaten(
    points: Sequence[tuple[float, float]], better: tuple[str, str] = ("higher", "higher")
) -> list[int]:
    """Return the positions of the points that no other one dominates.

    Args:
        points: `(x, y)`.
        better: Direction of each, `"higher"` or `"lower"`.
    """
    signs = [1 if each == "higher" else -1 for each in better]
    signed = [(signs[0] * x, signs[1] * y) for x, y in points]

    def beaten(mine: tuple[float, float]) -> bool:
        return any(
            theirs != mine and theirs[0] >= mine[0] and theirs[1] >= mine[1] for theirs in signed
        )

    return [position for position, mine in enumerate(signed) if not beaten(mine)]
