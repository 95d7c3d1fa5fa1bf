"""What tuning found: the tuned set, and everything that was measured on the way."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...hub import write_file
from ...neuron_set import NeuronSet
from .cells import FLOOR, Cell
from .choice import Candidate
from .reference import LEAST, OWN_ANSWERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

_NUMBERS = ("success", "distinct", "natural", "relevance", "score")


@dataclass(frozen=True)
class Tuning:
    """The result of `tune`.

    Attributes:
        neurons: The set with the strengths that were found, and a record of them in its header.
        best: Label → the cell that won.
        cells: Everything that was measured, per label in ascending strength.
        unsteered: What the model's own continuations of the same prompts are like.
        settings: How it was measured.
        finished: Whether the search came to its end; if not, the budget was spent.
        notes: What to know about the result.
        seconds: How long it took, this time.
        candidates: What became of every set, and every share of its neurons, that was tried.
    """

    neurons: NeuronSet
    best: Mapping[str, Cell]
    cells: tuple[Cell, ...]
    unsteered: Mapping[str, Any]
    settings: Mapping[str, Any]
    finished: bool
    notes: tuple[str, ...]
    seconds: float
    candidates: tuple[Candidate, ...] = ()

    @property
    def strengths(self) -> dict[str, float]:
        """The strengths that were found."""
        return {label: cell.strength for label, cell in self.best.items() if cell.success}

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the neurons, JSON-able."""
        return {
            "strengths": self.strengths,
            "candidates": [each.to_dict() for each in self.candidates],
            "best": {label: cell.to_dict() for label, cell in self.best.items()},
            "cells": [cell.to_dict() for cell in self.cells],
            "unsteered": dict(self.unsteered),
            "settings": dict(self.settings),
            "finished": self.finished,
            "notes": list(self.notes),
            "seconds": self.seconds,
        }

    def save_json(self, path: str | os.PathLike[str]) -> Path:
        """Write `to_dict()` into a file, whole or not at all, and return its path."""
        target = Path(path).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        write_file(target, lambda file: file.write_text(text, encoding="utf-8"))
        return target

    def table(self, all_cells: bool = False) -> Table:
        """Return a Rich table: per label the strength that won; or all that were measured.

        In brackets are 95 % intervals of what won.
        """
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("label", style="bold")
        named, shared = self._columns()
        for heading in (
            ("set",) * named + ("strength",) + ("share",) * shared + ("texts", *_NUMBERS)
        ):
            table.add_column(heading, justify="left" if heading == "set" else "right")
        for cell in self.cells if all_cells else self.best.values():
            won = all_cells and self.best.get(cell.label) == cell
            table.add_row(
                escape(cell.label) + ("  ←" if won else ""),
                *[escape(cell.candidate)] * named,
                f"{cell.strength:g}",
                *[_share(cell.share)] * shared,
                str(cell.texts),
                *(_number(getattr(cell, name), cell.intervals.get(name)) for name in _NUMBERS),
            )
        return table

    def candidate_table(self) -> Table:
        """Return a Rich table: per candidate the mean of its labels' best strengths."""
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("set", style="bold")
        _, shared = self._columns()
        for heading in ("share",) * shared + ("neurons", *_NUMBERS):
            table.add_column(heading, justify="right")
        table.add_column("result")
        for each in self.candidates:
            left = "" if each.left_after is None else f"given up after: {each.left_after}"
            table.add_row(
                escape(each.name),
                *[_share(each.share)] * shared,
                f"{each.neurons:.0f}",
                *(_number(each.mean(name)) for name in _NUMBERS[:-1]),
                _number(each.score),
                escape(f"taken for {', '.join(each.labels)}" if each.labels else left),
            )
        return table

    def _columns(self) -> tuple[bool, bool]:
        """Return whether sets have names, and whether several shares were tried."""
        named = any(each.name for each in self.candidates)
        return named, any(each.share is not None for each in self.candidates)

    def plot(self, x: str = "success", y: str = "fluency") -> Figure:
        """Draw every strength of every label by two of its numbers, in ascending strength.

        Args:
            x: Number to the right: success, distinct, natural, fluency (the product of what is left
                of these two), relevance or score.
            y: Number upwards. Strengths of which it was not measured are left out.
        """
        from ... import plots

        known = {cell.label for cell in self.cells if cell.natural is not None}
        points = [
            {
                **cell.to_dict(),
                # With half of it measured, a strength would look better than it is.
                "fluency": None if cell.natural is None and cell.label in known else cell.fluency,
                "strength": f"{cell.strength:g}",
                "series": " ".join(filter(None, [cell.label, cell.candidate, _share(cell.share)])),
            }
            for cell in sorted(self.cells, key=lambda cell: (cell.share or 0, cell.strength))
        ]
        return plots.frontier(
            points,
            x=x,
            y=y,
            group="series",
            name="strength",
            title="Strengths of steering",
            note=None if self.finished else "Not finished: the budget was spent.",
        )

    def evaluation(self) -> dict[str, Any]:
        """Return the record for the header of a set, in the shape that its card shows."""
        results = [
            {
                "task": "tune",
                "label": label,
                "metric": name,
                "value": round(value, 4),
                "interval": [round(bound, 4) for bound in cell.intervals.get(name, ())] or None,
            }
            for label, cell in self.best.items()
            for name in _NUMBERS
            if (value := getattr(cell, name)) is not None
        ]
        return {
            "results": results,
            "tuning": {
                "strengths": self.strengths,
                "texts": {label: cell.texts for label, cell in self.best.items()},
                "unsteered": dict(self.unsteered),
                "finished": self.finished,
                "candidates": [each.to_dict() for each in self.candidates],
                **self.settings,
            },
        }


def notes_of(best: Mapping[str, Cell], settings: Mapping[str, Any]) -> list[str]:
    """Return what to know about strengths that were found."""
    found: list[str] = []
    references: Mapping[str, Mapping[str, Any]] = settings["references"]
    for label, cell in best.items():
        compared = references.get(label, {})
        if not cell.success:
            found.append(
                f"{label}: no strength brought a single text into the language; none was set."
            )
        elif cell.success < FLOOR:
            found.append(
                f"{label}: at no strength half of the texts are in the language "
                f"({cell.success:.0%} at {cell.strength:g}); other layers, more neurons or another "
                "method may help."
            )
        if cell.natural is None and compared.get("texts"):
            found.append(f"{label}: likelihoods were not compared yet; the budget was spent.")
        if "answers" in compared and compared["kind"] != OWN_ANSWERS:
            found.append(
                f"{label}: of {compared['answers']} unsteered answers to prompts in that language "
                f"{compared['in_language']} are in it, too few to compare with (expected at least "
                f"{LEAST}); continuations of natural texts are taken instead, where there are any. "
                "More prompts in the language may help."
            )
    missing = [label for label in best if not references.get(label, {}).get("texts")]
    if missing:
        found.append(
            f"Without natural texts of {', '.join(missing)}, there is no reference for fluency: "
            "broken text may win there."
        )
    return found


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def _number(value: float | None, interval: tuple[float, float] | None = None) -> str:
    said = "–" if value is None else f"{value:.2f}"
    return said if interval is None else f"{said} ({interval[0]:.2f}–{interval[1]:.2f})"
