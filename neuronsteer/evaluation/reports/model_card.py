"""A report's results as a set's header holds them, and as a section of a model card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...neuron_set.card import evaluation_results
from . import formatting
from .markdown import cell, summary, table
from .report_data import ReportData


def evaluation(report: ReportData) -> dict[str, Any]:
    """Return the `evaluation` field of a set, in the shape that `neuron_set/card.py` reads.

    One result per experiment, and one per label where there is one; controls beside each. Where a
    control has no number for a label, it is left out, never filled with another number.
    """
    found: list[dict[str, Any]] = []
    for task in report.tasks:
        treatments: Mapping[str, Any] = task["treatments"]
        own = treatments.get("neurons")
        if own is None:
            continue
        for label in ("", *own["labels"]):
            picked = {
                name: entry["labels"].get(label) if label else entry["values"].get(task["primary"])
                for name, entry in treatments.items()
            }
            value = picked.pop("neurons")
            if value is None or value["value"] is None:
                continue
            found.append(
                {
                    "task": task["name"],
                    "label": label,
                    "metric": task["primary"],
                    "value": _rounded(value["value"]),
                    "interval": value.get("interval") and [_rounded(v) for v in value["interval"]],
                    "dataset": _dataset(report, task),
                    "controls": {
                        formatting.TREATMENTS.get(name, name): _rounded(each["value"])
                        for name, each in picked.items()
                        if each is not None and each["value"] is not None
                    },
                }
            )
    return {
        "results": found,
        "created": report.created,
        "controls": list(report.settings.get("controls", ())),
        "seed": report.settings.get("seed"),
        "identifier": report.settings.get("identifier"),
        "versions": dict(report.environment),
    }


def section(report: ReportData) -> str:
    """Return a section of a model card, Markdown."""
    lines = ["## Evaluation", ""]
    if not report.controls:
        lines += [f"> **No controls.** {formatting.NO_CONTROLS}", ""]
    lines += summary(report)
    listed = [each for each in evaluation_results(evaluation(report)) if each["label"]]
    if listed:
        controls = list(dict.fromkeys(name for each in listed for name in each["controls"]))
        rows = [
            [each["task"], each["label"], each["metric"], each["value"]]
            + [each["controls"].get(name) for name in controls]
            for each in listed
        ]
        lines += ["", *table(["task", "label", "metric", "value", *controls], rows)]
    sources = "; ".join(f"{kind}: {found['source']}" for kind, found in report.data.items())
    versions = ", ".join(f"{name} {number}" for name, number in report.environment.items())
    lines += ["", cell(f"Data: {sources}. Seed {report.settings.get('seed')}. {versions}.")]
    return "\n".join(lines) + "\n"


def _dataset(report: ReportData, task: Mapping[str, Any]) -> dict[str, str]:
    kind = next(iter(task.get("reads", ())), "")
    source = str(report.data.get(kind, {}).get("source", "")) or "own data"
    return {"name": source, "type": f"neuronsteer/{kind or 'own'}"}


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
