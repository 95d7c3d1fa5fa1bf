"""What a report shows beside numbers: matrices, charts, tables and samples, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: A dictionary with `kind` and `title`; the other keys belong to the kind.
Block = Mapping[str, Any]


def matrix(
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: Sequence[Sequence[float | None]],
    *,
    row_name: str,
    column_name: str,
    unit: str = "share",
    diverging: bool = False,
    note: str = "",
) -> Block:
    """Return a matrix, shown as a heat map.

    Args:
        title: What it shows.
        rows: Names of the rows.
        columns: Names of the columns.
        values: Numbers, row by row; `None` is an empty cell.
        row_name: What the rows are.
        column_name: What the columns are.
        unit: `share` is shown as a percentage, anything else as a number.
        diverging: Whether values lie on both sides of zero.
        note: How to read it.
    """
    return {
        "kind": "matrix",
        "title": title,
        "rows": list(rows),
        "columns": list(columns),
        "values": [list(row) for row in values],
        "row_name": row_name,
        "column_name": column_name,
        "unit": unit,
        "diverging": diverging,
        "note": note,
    }


def scatter(
    title: str,
    points: Sequence[Mapping[str, Any]],
    *,
    x_name: str,
    y_name: str,
    note: str = "",
) -> Block:
    """Return a scatter of shares; points have `x`, `y`, `label`, `group` and `best`."""
    return {
        "kind": "scatter",
        "title": title,
        "points": [dict(point) for point in points],
        "x_name": x_name,
        "y_name": y_name,
        "note": note,
    }


def histogram(
    title: str, values: Sequence[float], *, bins: Sequence[float], x_name: str, note: str = ""
) -> Block:
    """Return how often values fall between neighbouring `bins`; the last bin holds its edge."""
    counts = [0] * (len(bins) - 1)
    for value in values:
        for k in range(len(counts)):
            if bins[k] <= value < bins[k + 1] or (k == len(counts) - 1 and value == bins[-1]):
                counts[k] += 1
    return {
        "kind": "histogram",
        "title": title,
        "edges": list(bins),
        "counts": counts,
        "x_name": x_name,
        "note": note,
    }


def table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], note: str = ""
) -> Block:
    """Return a table of texts and numbers."""
    return {
        "kind": "table",
        "title": title,
        "header": list(header),
        "rows": [list(row) for row in rows],
        "note": note,
    }


def samples(title: str, items: Sequence[Mapping[str, Any]], note: str = "") -> Block:
    """Return some texts; items have `prompt`, `text`, `label`, `identified` and `good`."""
    return {
        "kind": "samples",
        "title": title,
        "items": [dict(item) for item in items],
        "note": note,
    }
