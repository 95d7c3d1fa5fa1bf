"""Two reports side by side: what changed, and whether more than chance would change it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from . import formatting
from .markdown import cell, table
from .report_data import ReportData


@dataclasses.dataclass(frozen=True)
class ReportComparison:
    """Two reports; numbers are compared where both have them.

    Attributes:
        left: One.
        right: The other.
    """

    left: ReportData
    right: ReportData

    @property
    def differences(self) -> list[str]:
        """Settings that differ; a difference of numbers may be due to them, not to the sets."""
        pairs: list[tuple[str, Any, Any]] = [
            (
                "model",
                self.left.subject["model"].get("weights_sha256"),
                self.right.subject["model"].get("weights_sha256"),
            )
        ]
        for kind in sorted({*self.left.data, *self.right.data}):
            mine, theirs = self.left.data.get(kind), self.right.data.get(kind)
            if mine is not None and theirs is not None:
                pairs.append((f"data ({kind})", mine["sha256"], theirs["sha256"]))
        for name in sorted({*self.left.settings, *self.right.settings} - {"tasks", "controls"}):
            pairs.append((name, self.left.settings.get(name), self.right.settings.get(name)))
        return [name for name, mine, theirs in pairs if mine != theirs]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per experiment, and per label of it, that both reports have.

        `apart` says whether the two intervals do not overlap; `None` where one of them is missing.
        """
        found: list[dict[str, Any]] = []
        for task in self.left.tasks:
            if task["name"] not in self.right.names:
                continue
            other = self.right.task(task["name"])
            if other["primary"] != task["primary"]:
                continue
            mine, theirs = task["treatments"]["neurons"], other["treatments"]["neurons"]
            key = task["primary"]
            listed = [("", mine["values"].get(key), theirs["values"].get(key))]
            listed += [
                (label, mine["labels"][label], theirs["labels"][label])
                for label in mine["labels"]
                if label in theirs["labels"]
            ]
            for label, a, b in listed:
                if a is None or b is None:
                    continue
                known = a["value"] is not None and b["value"] is not None
                found.append(
                    {
                        "task": task["name"],
                        "label": label,
                        "metric": key,
                        "unit": task.get("unit", ""),
                        "left": a["value"],
                        "right": b["value"],
                        "difference": b["value"] - a["value"] if known else None,
                        "apart": _apart(a, b),
                        "better": (
                            (b["value"] > a["value"]) == bool(task["higher_is_better"])
                            if known and b["value"] != a["value"]
                            else None
                        ),
                    }
                )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "left": self.left.title,
            "right": self.right.title,
            "differences": self.differences,
            "only_left": [name for name in self.left.names if name not in self.right.names],
            "only_right": [name for name in self.right.names if name not in self.left.names],
            "rows": self.rows(),
        }

    def to_markdown(self) -> str:
        """Return the comparison as Markdown."""
        lines = [f"# {cell(self.left.title)} (A) and {cell(self.right.title)} (B)", ""]
        for side, report in (("A", self.left), ("B", self.right)):
            if not report.controls:
                lines += [f"> **{side} has no controls.** {formatting.NO_CONTROLS}", ""]
        if self.differences:
            lines += [
                f"> Different settings: {cell(', '.join(self.differences))}. "
                "Other numbers may be due to them.",
                "",
            ]
        rows = [
            [
                row["task"],
                row["label"],
                row["metric"],
                formatting.number(row["left"], row["unit"]),
                formatting.number(row["right"], row["unit"]),
                "" if row["difference"] is None else f"{row['difference']:+.3g}",
                {True: "yes", False: "no", None: ""}[row["apart"]],
            ]
            for row in self.rows()
        ]
        head = ["task", "label", "metric", "A", "B", "B − A", "intervals apart"]
        return "\n".join([*lines, *table(head, rows)]) + "\n"


def _apart(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool | None:
    left, right = a.get("interval"), b.get("interval")
    if not left or not right:
        return None
    return bool(left[1] < right[0] or right[1] < left[0])
