"""A report as Markdown, for terminals, issues and repositories."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import wording

if TYPE_CHECKING:
    from . import Report


def render(report: Report) -> str:
    """Return the report as Markdown."""
    lines = [f"# {cell(report.title)}", ""]
    if not report.controls:
        lines += [f"> **No controls.** {wording.NO_CONTROLS}", ""]
    lines += [f"> {cell(note)}\n" for note in report.notes]
    lines += [_facts(report), "", *summary(report), ""]
    for task in report.tasks:
        lines += [*_task(task), ""]
    lines += ["## How it was made", "", *_made(report)]
    return "\n".join(lines).rstrip() + "\n"


def summary(report: Report) -> list[str]:
    """Return the table of headlines."""
    arms = [name for name in wording.ARMS if any(name in task["arms"] for task in report.tasks)]
    head = ["experiment", "headline", *(wording.ARMS[name] for name in arms)]
    rows: list[list[str]] = []
    for task in report.tasks:
        row = [task["title"], wording.title(task["primary"])]
        for name in arms:
            found = task["arms"].get(name, {}).get("values", {}).get(task["primary"])
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
    return re.sub(r"([|<>`*_\[\]\\#])", r"\\\1", re.sub(r"\s+", " ", shown)).strip()


def _facts(report: Report) -> str:
    model, found = report.subject["model"], report.subject["set"]
    operation = " ".join(str(value) for value in found["operation"].values())
    return (
        f"{found['neurons']} neurons at `{found['site']}`, labels "
        f"{cell(', '.join(found['labels']))}; operation {cell(operation)}; model "
        f"{cell(model['name'] or model['type'])} ({model['parameters']:,} parameters, "
        f"{model['dtype']}). {cell(report.created)}, {report.seconds:.0f} s."
    )


def _task(task: Mapping[str, Any]) -> list[str]:
    primary = task["primary"]
    lines = [
        f"## {task['title']}",
        "",
        f"{task.get('question', '')} {task.get('definition', '')}",
        "",
    ]
    names = list(task["arms"]["neurons"]["values"])
    rows = [
        [wording.arm(arm, entry)]
        + [_value(entry["values"].get(name), wording.unit_of(task, name)) for name in names]
        + [entry["n"]]
        for arm, entry in task["arms"].items()
    ]
    lines += table(["arm", *map(wording.title, names), "n"], rows)
    said = wording.beaten(task)
    lines += ["", said] if said else []
    labels = task["arms"]["neurons"]["labels"]
    if labels:
        arms = list(task["arms"])
        rows = [
            [label]
            + [
                _value(task["arms"][arm]["labels"].get(label), str(task.get("unit", "")))
                for arm in arms
            ]
            for label in labels
        ]
        head = [wording.arm(arm, task["arms"][arm]) for arm in arms]
        lines += ["", f"Per label, {wording.title(primary)}:", ""]
        lines += table(["label", *head], rows)
    for part in task["arms"]["neurons"]["parts"]:
        lines += ["", *_part(part)]
    return lines


def _part(part: Mapping[str, Any]) -> list[str]:
    head = [f"**{cell(part['title'])}**" + (f": {cell(part['note'])}" if part["note"] else ""), ""]
    if part["kind"] == "matrix":
        rows = [
            [row, *(wording.number(value, part["unit"]) for value in values)]
            for row, values in zip(part["rows"], part["values"], strict=True)
        ]
        return head + table(
            [f"{part['row_name']} \\ {part['column_name']}", *part["columns"]], rows
        )
    if part["kind"] == "table":
        return head + table(part["header"], part["rows"])
    if part["kind"] == "samples":
        rows = [
            [each["label"], each["heard"], each["prompt"], each["text"]] for each in part["items"]
        ]
        return head + table(["asked", "heard", "prompt", "text"], rows)
    if part["kind"] == "histogram":
        spans = zip(part["edges"], part["edges"][1:], part["counts"], strict=False)
        rows = [[f"{low:g}–{high:g}", count] for low, high, count in spans]
        return head + table([part["x_name"], "times"], rows)
    if part["kind"] == "scatter":
        rows = [
            [p["label"], f"{p['x']:.1%}", f"{p['y']:.1%}", "yes" if p.get("best") else ""]
            for p in part["points"]
        ]
        return head + table(["setting", part["x_name"], part["y_name"], "on the frontier"], rows)
    return []


def _made(report: Report) -> list[str]:
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
    bounds = wording.interval(found, unit)
    return wording.number(found["value"], unit) + (f" ({bounds})" if bounds else "")
