"""A report as one HTML page that needs nothing else: no script, no font, no file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from . import formatting, svg
from .report_data import ReportData

if TYPE_CHECKING:
    from jinja2 import Template


_TEMPLATE = "report.html.jinja"


def render(report: ReportData) -> str:
    """Return the page."""
    return _template().render(
        report=report,
        model=report.subject["model"],
        set=report.subject["set"],
        operation=" ".join(str(v) for v in report.subject["set"]["operation"].values()),
        treatments=report.treatments,
        details=json.dumps(
            {
                "subject": report.subject,
                "settings": report.settings,
                "data": report.data,
                "environment": report.environment,
            },
            ensure_ascii=False,
            indent=2,
            default=str,
        ),
    )


def heat(block: Mapping[str, Any], value: float | None) -> dict[str, Any]:
    """Return how a cell of a matrix is coloured: `share` of full colour, and its class."""
    if value is None:
        return {"share": 0, "name": "empty"}
    if block["unit"] == "×":
        # A factor changes nothing at 1, not at 0.
        known = [abs(v - 1) for row in block["values"] for v in row if v is not None]
        value, high = value - 1, max([*known, 1e-12])
    elif block["unit"] == "share" and not block["diverging"]:
        high = 1.0
    else:
        known = [abs(v) for row in block["values"] for v in row if v is not None]
        high = max([*known, 1e-12])
    share = min(abs(value) / high, 1.0)
    name = "cold" if value < 0 else "hot"
    return {"share": round(100 * share), "name": f"{name} strong" if share > 0.7 else name}


def pairs(task: Mapping[str, Any]) -> list[list[tuple[str, Mapping[str, Any]]]]:
    """Return what to show, the set's matrices beside the random sets' mean."""
    theirs = {p["title"]: p for p in task["treatments"].get("random", {}).get("blocks", ())}
    found: list[list[tuple[str, Mapping[str, Any]]]] = []
    for block in task["treatments"]["neurons"]["blocks"]:
        row = [("neurons", block)]
        other = theirs.get(block["title"])
        if block["kind"] == "matrix" and other is not None and other["kind"] == "matrix":
            row.append(("random", other))
        found.append(row)
    return found


def _safe(draw: Callable[[Any], str]) -> Callable[[Any], Any]:
    """Return a drawing that the template does not escape; it has escaped its own texts."""
    from markupsafe import Markup

    return lambda what: Markup(draw(what))


@lru_cache(maxsize=1)
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    text = (
        files(__package__ or "neuronsteer.evaluation.reports")
        .joinpath(_TEMPLATE)
        .read_text("utf-8")
    )
    # Prompts and texts come from models and files: everything is escaped except our own SVG.
    environment = Environment(
        undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    names: dict[str, Any] = {
        "TREATMENTS": formatting.TREATMENTS,
        "NO_CONTROLS": formatting.NO_CONTROLS,
        "treatment": formatting.treatment,
        "number": formatting.number,
        "interval": formatting.interval,
        "words": formatting.title,
        "unit_of": formatting.unit_of,
        "beaten": formatting.beaten,
        "bars": _safe(svg.bars),
        "mark": _safe(lambda name: svg.mark(name, 0, 0)),
        "scatter": _safe(svg.scatter),
        "histogram": _safe(svg.histogram),
        "heat": heat,
        "pairs": pairs,
    }
    environment.globals.update(names)
    return environment.from_string(text)
