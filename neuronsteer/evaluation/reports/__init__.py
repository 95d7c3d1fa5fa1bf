"""What an evaluation found: one object that becomes JSON, Markdown, HTML or a card's results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ...errors import ArtifactError, HubError
from ...hub import read_json, write_folder
from . import html_page, markdown, model_card
from .report_data import NEURONS, ReportData
from .side_by_side import ReportComparison

JSON, MARKDOWN, HTML = "report.json", "report.md", "report.html"


class Report(ReportData):
    """An evaluation of a neuron set beside its controls; made by `evaluate()`."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Return the report in a folder, or in a JSON file.

        Raises:
            HubError: If there is none.
            ArtifactError: If it is damaged.
        """
        file = Path(path).expanduser()
        if file.is_dir():
            file = file / JSON
        if not file.is_file():
            raise HubError(
                f"There is no report {str(path)!r}; expected a folder with {JSON}, as "
                "'neuronsteer evaluate' writes it."
            )
        return cls.from_dict(read_json(file, ArtifactError))

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.json`, `report.md` and `report.html` into a folder, and return it."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"
        named = {MARKDOWN: self.to_markdown(), HTML: self.to_html(), JSON: text}
        return write_folder(folder, {k: each.encode("utf-8") for k, each in named.items()})

    def to_markdown(self) -> str:
        """Return the report as Markdown."""
        return markdown.render(self)

    def to_html(self) -> str:
        """Return the report as one HTML page that needs nothing else."""
        return html_page.render(self)

    def to_evaluation(self) -> dict[str, Any]:
        """Return what a set's header holds, which becomes its card's table and model-index."""
        return model_card.evaluation(self)

    def to_card(self) -> str:
        """Return the section of a model card: the table, the controls and how it was made."""
        return model_card.section(self)

    def compare(self, other: Report) -> ReportComparison:
        """Return the two reports side by side, task by task."""
        return ReportComparison(self, other)

    def __repr__(self) -> str:
        shown: list[str] = []
        for task in self.tasks[:6]:
            value = task["treatments"].get(NEURONS, {}).get("values", {}).get(task["primary"], {})
            number = value.get("value")
            shown.append(f"{task['name']} {'–' if number is None else format(number, '.3g')}")
        controls = ", ".join(self.controls) or "NO CONTROLS"
        return f"Report({self.title}: {' · '.join(shown)} | {controls})"
