"""Charts as inline SVG: they take colours and text from the page, so dark mode is the reader's.

Treatments differ in shape, not only in colour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from . import formatting

_CROSS = (
    (-2, -6), (2, -6), (2, -2), (6, -2), (6, 2), (2, 2),
    (2, 6), (-2, 6), (-2, 2), (-6, 2), (-6, -2), (-2, -2),
)  # fmt: skip
_WIDTH, _LEFT, _RIGHT, _ROW = 720, 150, 70, 26
_SIDES = ("none", "random", "diffmean", *formatting.BASELINES)


def bars(task: Mapping[str, Any]) -> str:
    """Return the headline per label as bars with intervals, and the controls as marks."""
    treatments: Mapping[str, Any] = task["treatments"]
    labels = list(treatments["neurons"]["labels"])
    if not labels:
        return ""
    unit = str(task.get("unit", ""))
    rows = [(label, {a: e["labels"].get(label) for a, e in treatments.items()}) for label in labels]
    rows.append(("all", {a: e["values"].get(task["primary"]) for a, e in treatments.items()}))
    scale, ticks = _axis([each for _, found in rows for each in found.values()], unit)
    height = _ROW * len(rows) + 40
    drawn = [_open(_WIDTH, height, f"{task['title']} per label")]
    for tick in ticks:
        x = scale(tick)
        drawn.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="8" y2="{height - 26}"/>')
        drawn.append(
            f'<text class="tick" x="{x:.1f}" y="{height - 10}" text-anchor="middle">'
            f"{_tick(tick, unit)}</text>"
        )
    zero = scale(0 if ticks[0] <= 0 else ticks[0])
    for i, (label, found) in enumerate(rows):
        y = 12 + i * _ROW + (6 if label == "all" else 0)
        middle = y + _ROW / 2 - 3
        if label == "all":
            drawn.append(f'<line class="rule" x1="0" x2="{_WIDTH}" y1="{y - 3}" y2="{y - 3}"/>')
        drawn.append(
            f'<text class="name" x="{_LEFT - 10}" y="{middle + 4}" text-anchor="end">'
            f"{escape(label)}</text>"
        )
        own = found.get("neurons")
        if own is not None and own["value"] is not None:
            x = scale(own["value"])
            said = f"{label}: {formatting.number(own['value'], unit)}"
            bounds = formatting.interval(own, unit)
            drawn.append(
                f'<rect class="bar" x="{min(x, zero):.1f}" y="{y + 3}" rx="2" '
                f'width="{max(abs(x - zero), 1):.1f}" height="{_ROW - 12}">'
                f"<title>{escape(said + (f' ({bounds})' if bounds else ''))}</title></rect>"
            )
            if own.get("interval"):
                low, high = (scale(v) for v in own["interval"])
                drawn.append(_whisker(low, high, middle, "whisker"))
            drawn.append(
                f'<text class="value" x="{_WIDTH - 4}" y="{middle + 4}" text-anchor="end">'
                f"{formatting.number(own['value'], unit)}</text>"
            )
        for treatment in _SIDES:
            each = found.get(treatment)
            if each is not None and each["value"] is not None:
                if each.get("interval"):
                    low, high = (scale(v) for v in each["interval"])
                    drawn.append(_whisker(low, high, middle, f"whisker {treatment}"))
                name = formatting.TREATMENTS[treatment]
                said = f"{label}, {name}: {formatting.number(each['value'], unit)}"
                drawn.append(mark(treatment, scale(each["value"]), middle, said))
    return "".join([*drawn, "</svg>"])


def mark(treatment: str, x: float, y: float, title: str = "") -> str:
    """Return a treatment's mark: a circle, a diamond, a triangle, one on its tip, a cross."""
    said = f"<title>{escape(title)}</title>" if title else ""
    if treatment == "none":
        return f'<circle class="mark none" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{said}</circle>'
    if treatment == "random":
        points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y:.1f} {x:.1f},{y + 6:.1f} {x - 6:.1f},{y:.1f}"
    elif treatment == "diffmean":
        points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y + 5:.1f} {x - 6:.1f},{y + 5:.1f}"
    elif treatment == "prompted":
        points = f"{x:.1f},{y + 6:.1f} {x + 6:.1f},{y - 5:.1f} {x - 6:.1f},{y - 5:.1f}"
    elif treatment == "prompted_natively":
        points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in _CROSS)
    else:
        return (
            f'<rect class="bar" x="{x - 8:.1f}" y="{y - 5:.1f}" width="16" height="10" rx="2">'
            f"{said}</rect>"
        )
    return f'<polygon class="mark {treatment}" points="{points}">{said}</polygon>'


def scatter(block: Mapping[str, Any]) -> str:
    """Return a scatter of shares, its frontier joined and named."""
    width, height, left, bottom, top = 720, 420, 60, 46, 14
    groups = list(dict.fromkeys(str(p.get("group", "")) for p in block["points"]))

    def at(point: Mapping[str, Any]) -> tuple[float, float]:
        return (
            left + float(point["x"]) * (width - left - 24),
            height - bottom - float(point["y"]) * (height - bottom - top),
        )

    drawn = [_open(width, height, block["title"])]
    for k in range(6):
        x, y = at({"x": k / 5, "y": k / 5})
        drawn.append(
            f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - bottom}"/>'
            f'<line class="grid" x1="{left}" x2="{width - 24}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{x:.1f}" y="{height - bottom + 16}" text-anchor="middle">'
            f"{k * 20}%</text>"
            f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{k * 20}%</text>'
        )
    drawn.append(
        f'<text class="axis" x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">'
        f"{escape(block['x_name'])}</text>"
        f'<text class="axis" transform="translate(14 {height / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(block["y_name"])}</text>'
    )
    best = sorted((p for p in block["points"] if p.get("best")), key=lambda p: float(p["x"]))
    if len(best) > 1:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, best))
        drawn.append(f'<polyline class="frontier" points="{path}"/>')
    # Points of the frontier are drawn last, on top.
    for point in sorted(block["points"], key=lambda p: bool(p.get("best"))):
        x, y = at(point)
        group = groups.index(str(point.get("group", ""))) % 6
        said = f"{point['label']}: {point['x']:.0%}, {point['y']:.0%}"
        ring = " best" if point.get("best") else ""
        drawn.append(_dot(group, x, y, f"dot g{group}{ring}", said))
    taken: list[tuple[float, float]] = []
    for point in best:
        x, y = at(point)
        # Names of neighbouring points would overlap.
        if all(abs(x - a) > 150 or abs(y - b) > 18 for a, b in taken):
            taken.append((x, y))
            anchor, dx = ("end", -10) if x > width * 0.6 else ("start", 10)
            drawn.append(
                f'<text class="note" x="{x + dx:.1f}" y="{y + 16:.1f}" text-anchor="{anchor}">'
                f"{escape(str(point['label']))}</text>"
            )
    drawn.append("</svg>")
    legend = "".join(
        f'<span><svg class="key" viewBox="-8 -8 16 16">{_dot(i % 6, 0, 0, f"dot g{i % 6}", "")}'
        f"</svg>{escape(name)}</span>"
        for i, name in enumerate(groups)
    )
    return "".join(drawn) + f'<p class="legend">{legend}</p>'


def histogram(block: Mapping[str, Any]) -> str:
    """Return bars of counts."""
    width, height, left, bottom = 720, 240, 44, 46
    edges, counts = block["edges"], block["counts"]
    high = max([*counts, 1])
    step = (width - left - 10) / max(len(counts), 1)
    drawn = [_open(width, height, block["title"])]
    for share in (0, 0.5, 1):
        y = height - bottom - share * (height - bottom - 12)
        drawn.append(
            f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">'
            f"{high * share:g}</text>"
        )
    for i, count in enumerate(counts):
        tall = count / high * (height - bottom - 12)
        x = left + i * step
        said = f"{edges[i]:g} to {edges[i + 1]:g}: {count}"
        drawn.append(
            f'<rect class="bar" x="{x + 1:.1f}" y="{height - bottom - tall:.1f}" rx="1" '
            f'width="{max(step - 2, 1):.1f}" height="{tall:.1f}"><title>{said}</title></rect>'
        )
    every = max(len(edges) // 10, 1)
    for i in range(0, len(edges), every):
        drawn.append(
            f'<text class="tick" x="{left + i * step:.1f}" y="{height - bottom + 16}" '
            f'text-anchor="middle">{edges[i]:g}</text>'
        )
    drawn.append(
        f'<text class="axis" x="{(left + width) / 2}" y="{height - 8}" text-anchor="middle">'
        f"{escape(block['x_name'])}</text></svg>"
    )
    return "".join(drawn)


def _dot(group: int, x: float, y: float, name: str, title: str) -> str:
    said = f"<title>{escape(title)}</title>" if title else ""
    if group % 3 == 0:
        return f'<circle class="{name}" cx="{x:.1f}" cy="{y:.1f}" r="5">{said}</circle>'
    if group % 3 == 1:
        return (
            f'<rect class="{name}" x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9">'
            f"{said}</rect>"
        )
    points = f"{x:.1f},{y - 6:.1f} {x + 6:.1f},{y + 5:.1f} {x - 6:.1f},{y + 5:.1f}"
    return f'<polygon class="{name}" points="{points}">{said}</polygon>'


def _axis(
    found: Sequence[Mapping[str, Any] | None], unit: str
) -> tuple[Callable[[float], float], list[float]]:
    """Return value → x, and the ticks."""
    if unit == "share":
        low, high = 0.0, 1.0
        ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    else:
        values = [
            float(v)
            for each in found
            if each is not None
            for v in (each["value"], *(each.get("interval") or ()))
            if v is not None
        ]
        step = _step((max([*values, 0.0]) - min([*values, 0.0])) or 1.0)
        first = int(min([*values, 0.0]) // step)
        last = int(-(-max([*values, step]) // step))
        ticks = [k * step for k in range(first, last + 1)]
        low, high = ticks[0], ticks[-1]
    width = _WIDTH - _LEFT - _RIGHT

    def scale(value: float) -> float:
        share = (min(max(value, low), high) - low) / (high - low)
        return _LEFT + share * width

    return scale, ticks


def _step(span: float) -> float:
    """Return a round distance of ticks, about five to the span."""
    # Below the smallest numbers there are, dividing would never end.
    span = max(span, 1e-9)
    size = 1.0
    while size * 5 > span:
        size /= 10
    while size * 50 < span:
        size *= 10
    return next(size * k for k in (1, 2, 5, 10) if span / (size * k) <= 6)


def _tick(value: float, unit: str) -> str:
    return f"{value:.0%}" if unit == "share" else f"{value:g}"


def _whisker(low: float, high: float, y: float, name: str) -> str:
    return (
        f'<path class="{name}" d="M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 3:.1f}v6'
        f'M{high:.1f} {y - 3:.1f}v6"/>'
    )


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(title, quote=True)}">'
    )
