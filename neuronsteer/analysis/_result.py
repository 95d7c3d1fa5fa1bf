"""What an analysis returns: records, facts, and everything needed to draw them again."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ArtifactError, did_you_mean
from ..hub import write_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

FORMAT = 1

# A terminal table with more rows than this is not read.
_ROWS = 40


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of one analysis.

    Attributes:
        analysis: Name of the analysis.
        rows: The table, one dictionary per row with the same keys in each.
        facts: Headline numbers and labels.
        settings: Parameters, and what was analysed: what the numbers cannot be reproduced without.
    """

    analysis: str
    rows: list[dict[str, Any]]
    facts: dict[str, Any]
    settings: dict[str, Any] = dataclasses.field(default_factory=dict[str, Any])

    def records(self) -> list[dict[str, Any]]:
        """Return the table as a list of flat dictionaries, ready for `pandas.DataFrame`."""
        return [dict(row) for row in self.rows]

    def column(self, name: str) -> list[Any]:
        """Return one column of the table."""
        if self.rows and name not in self.rows[0]:
            raise ArtifactError(
                f"The analysis {self.analysis!r} has no column {name!r}."
                f"{did_you_mean(name, self.rows[0])} It has {', '.join(self.rows[0])}."
            )
        return [row[name] for row in self.rows]

    @property
    def title(self) -> str:
        """What a person calls it."""
        return self._kind().title

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; what is not a finite number is `None`."""
        return {
            "format_version": FORMAT,
            "analysis": self.analysis,
            "title": self.title,
            "facts": _plain(self.facts),
            "settings": _plain(self.settings),
            "records": _plain(self.rows),
        }

    def to_json(self) -> str:
        """Return everything as JSON text; `from_json` reads it."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Result:
        """Return the result that `to_json` wrote.

        Raises:
            ArtifactError: If it is something else.
        """
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ArtifactError(f"This is not the JSON of an analysis: {error}.") from error
        fields = ("analysis", "records", "facts", "settings", "format_version")
        missing = [f for f in fields if not isinstance(found, Mapping) or f not in found]
        if missing:
            raise ArtifactError(f"This is not the JSON of an analysis: {missing[0]!r} is missing.")
        if found["format_version"] != FORMAT:
            raise ArtifactError(
                f"The result has the format {found['format_version']!r}, this version reads "
                f"{FORMAT}. Update neuronsteer, or run the analysis again."
            )
        return cls(found["analysis"], found["records"], found["facts"], found["settings"])

    def plot(self) -> Figure:
        """Return the plot; `neuronsteer.plots.save(figure, path)` writes it.

        Raises:
            MissingExtraError: If matplotlib is not installed (extra `plots`).
        """
        return self._kind().draw(self)

    def save(self, folder: str | os.PathLike[str], *, plot: bool = True) -> list[Path]:
        """Write `<analysis>.json`, and `.png` and `.svg` of the plot; return the files."""
        from .. import plots

        path = Path(folder).expanduser()
        write_folder(path, {f"{self.analysis}.json": self.to_json().encode("utf-8")})
        files = [path / f"{self.analysis}.json"]
        return files + (plots.save(self.plot(), path / self.analysis) if plot else [])

    def table(self) -> Table:
        """Return a Rich table: the records, or as many as one reads on a terminal."""
        from rich.markup import escape
        from rich.table import Table

        more = len(self.rows) - _ROWS
        table = Table(title=self.title, caption=f"… {more} more rows" if more > 0 else None)
        for name in self.rows[0] if self.rows else ():
            numbers = all(not isinstance(row[name], str) for row in self.rows)
            table.add_column(escape(name), justify="right" if numbers else "left")
        for row in self.rows[:_ROWS]:
            table.add_row(*(escape(_cell(value)) for value in row.values()))
        return table

    def __repr__(self) -> str:
        shown = ", ".join(
            f"{name}={_cell(value)}"
            for name, value in self.facts.items()
            if isinstance(value, str | int | float | bool)
        )
        return f"Result({self.analysis}: {len(self.rows)} records; {shown})"

    def _kind(self) -> Any:
        from . import ANALYSES

        return ANALYSES.get(self.analysis)


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _plain(value: Any) -> Any:
    # A plugin's number may be NumPy's or torch's.
    if not isinstance(value, str | int | float) and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
