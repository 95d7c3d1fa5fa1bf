"""A report as Markdown, for terminals, issues and repositories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...neuron_set.markdown_text import code, inline
from . import formatting
from .report_data import ReportData


def render(report: ReportData) -> str:
    """Return the report as Markdown."""
    lines = [f"# {cell(report.title)}", ""]
    if not report.controls:
        lines += [f"> **No controls.** {formatting.NO_CONTROLS}", ""]
    lines += [f"> {cell(note)}\n" for note in report.notes]
    lines += [_facts(report), "", *summary(report), ""]
    for task in report.tasks:
        lines += [*_task(task), ""]
    lines += ["## How it was made", "", *_made(report)]
    return "\n".join(lines).rstrip() + "\n"


def summary(report: ReportData) -> list[str]:
    """Return the table of headlines."""
    treatments = report.treatments
    head = ["experiment", "headline", *(formatting.TREATMENTS[name] for name in treatments)]
    rows: list[list[str]] = []
    for task in report.tasks:
        row = [task["title"], formatting.title(task["primary"])]
        for name in treatments:
            found = task["treatments"].get(name, {}).get("values", {}).get(task["primary"])
            row.append(_value(found, str(task.get("unit", ""))))
        rows.append(row)
    return table(head, rows)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table."""
    return [
        "| " + " | ".join(map(cell, header)) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(map(cell, row)) + " |" for row in rows),
    ]


def cell(text: Any) -> str:
    """Return a text that cannot break a table, or become markup."""
    shown = "–" if text is None else f"{text:.4g}" if isinstance(text, float) else str(text)
    return inline(shown)


def _facts(report: ReportData) -> str:
    model, found = report.subject["model"], report.subject["set"]
    operation = " ".join(str(value) for value in found["operation"].values())
    return (
        f"{found['neurons']} neurons at {code(found['site'])}, labels "
        f"{cell(', '.join(found['labels']))}; operation {cell(operation)}; model "
        f"{cell(model['name'] or model['type'])} ({model['parameters']:,} parameters, "
        f"{cell(model['dtype'])}). {cell(report.created)}, {report.seconds:.0f} s."
    )


def _task(task: Mapping[str, Any]) -> list[str]:
    primary = task["primary"]
    lines = [
        f"## {cell(task['title'])}",
        "",
        cell(f"{task.get('question', '')} {task.get('definition', '')}"),
        "",
    ]
    names = list(task["treatments"]["neurons"]["values"])
    rows = [
        [formatting.treatment(treatment, entry)]
        + [_value(entry["values"].get(name), formatting.unit_of(task, name)) for name in names]
        + [entry["n"]]
        for treatment, entry in task["treatments"].items()
    ]
    lines += table(["treatment", *map(formatting.title, names), "n"], rows)
    said = formatting.beaten(task)
    lines += ["", cell(said)] if said else []
    labels = task["treatments"]["neurons"]["labels"]
    if labels:
        treatments = list(task["treatments"])
        rows = [
            [label]
            + [
                _value(
                    task["treatments"][treatment]["labels"].get(label), str(task.get("unit", ""))
                )
                for treatment in treatments
            ]
            for label in labels
        ]
        head = [
            formatting.treatment(treatment, task["treatments"][treatment])
            for treatment in treatments
        ]
        lines += ["", f"Per label, {cell(formatting.title(primary))}:", ""]
        lines += table(["label", *head], rows)
    for block in task["treatments"]["neurons"]["blocks"]:
        lines += ["", *_block(block)]
    return lines


def _block(block: Mapping[str, Any]) -> list[str]:
    head = [
        f"**{cell(block['title'])}**" + (f": {cell(block['note'])}" if block["note"] else ""),
        "",
    ]
    if block["kind"] == "matrix":
        rows = [
            [row, *(formatting.number(value, block["unit"]) for value in values)]
            for row, values in zip(block["rows"], block["values"], strict=True)
        ]
        return head + table(
            [f"{block['row_name']} \\ {block['column_name']}", *block["columns"]], rows
        )
    if block["kind"] == "table":
        return head + table(block["header"], block["rows"])
    if block["kind"] == "samples":
        rows = [
            [each["label"], each["identified"], each["prompt"], each["text"]]
            for each in block["items"]
        ]
        return head + table(["asked", "identified", "prompt", "text"], rows)
    if block["kind"] == "histogram":
        spans = zip(block["edges"], block["edges"][1:], block["counts"], strict=False)
        rows = [[f"{low:g}–{high:g}", count] for low, high, count in spans]
        return head + table([block["x_name"], "times"], rows)
    if block["kind"] == "scatter":
        rows = [
            [p["label"], f"{p['x']:.1%}", f"{p['y']:.1%}", "yes" if p.get("best") else ""]
            for p in block["points"]
        ]
        return head + table(["setting", block["x_name"], block["y_name"], "on the frontier"], rows)
    return []


def _made(report: ReportData) -> list[str]:
    facts = [
        ["set", report.subject["set"]["fingerprint"]],
        ["model weights (sampled)", report.subject["model"].get("weights_sha256")],
        *([kind, f"{found['source']}, {found['sha256']}"] for kind, found in report.data.items()),
        *([name, value] for name, value in report.environment.items()),
        *([name, value] for name, value in report.settings.items()),
    ]
    return table(["what", "value"], facts)


def _value(found: Mapping[str, Any] | None, unit: str) -> str:
    if found is None:
        return ""
    bounds = formatting.interval(found, unit)
    return formatting.number(found["value"], unit) + (f" ({bounds})" if bounds else "")
