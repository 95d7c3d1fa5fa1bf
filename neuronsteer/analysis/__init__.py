"""Analyses: where the neurons of labels are, what labels share, how reliable that is.

An analysis is a frozen dataclass of parameters with a method `run`, which returns a `Result`:
records for a DataFrame, headline facts, and enough to draw the plot again from its JSON. A new one
is a new file in this folder that registers itself with `@ANALYSES.register("name")`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ArtifactError, ParameterError, did_you_mean
from ..evaluation.json_values import named, plain
from ..hub import public_name, write_folder
from ..registry import Registry, create

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

__all__ = ["ANALYSES", "Analysis", "Result", "analysis", "analyze"]

FORMAT = 1

#: What an analysis can be given, and what that is.
INPUTS = {
    "neurons": "a NeuronSet",
    "other": "a NeuronSet or Stats to compare with",
    "stats": "Stats",
    "parts": "several Stats of one model: a list, or a mapping of names",
    "model": "a causal language model",
    "tokenizer": "its tokenizer",
    "texts": "texts per label: a mapping, or a folder with one file per label",
}


# A terminal table with more rows than this is not read.
_ROWS = 40


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of one analysis.

    Attributes:
        analysis: Name of the analysis.
        rows: The table, one dictionary per row with the same keys in each.
        facts: Headline numbers and labels.
        settings: Parameters and what was analysed: what is needed to reproduce the numbers.
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
        """Readable name of the analysis."""
        return ANALYSES.get(self.analysis).title

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON types; what is not a finite number is `None`."""
        return {
            "format_version": FORMAT,
            "analysis": self.analysis,
            "title": self.title,
            "facts": plain(self.facts),
            "settings": plain(self.settings),
            "records": plain(self.rows),
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
        return ANALYSES.get(self.analysis).draw(self)

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


@dataclasses.dataclass(frozen=True)
class Analysis(ABC):
    """Base of all analyses. Fields are the parameters; they are written into the result.

    Class attributes:
        name: What the registry and the command line call it.
        title: Readable name; the title of the plot.
        question: The question that it answers, in one line.
        needs: What `run` is given, in this order; names of `INPUTS`.
        paper: What to cite, if it was published.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    question: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str] = ""

    @abstractmethod
    def run(self, *args: Any, **kwargs: Any) -> Result:
        """Return the result for what `needs` names."""

    @classmethod
    @abstractmethod
    def draw(cls, result: Result) -> Figure:
        """Return the plot of a result, from its records and facts alone."""

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def result(
        self,
        records: Sequence[Mapping[str, Any]],
        facts: Mapping[str, Any],
        *sources: Any,
    ) -> Result:
        """Return a `Result` of this analysis; for plugins.

        Args:
            records: One per row of the table.
            facts: Headline numbers.
            *sources: What was analysed; its fingerprint or name goes into the settings.
        """
        return Result(
            self.name,
            [dict(record) for record in records],
            dict(facts),
            {
                "parameters": named(self.parameters()),
                "sources": [_source(each) for each in sources],
            },
        )


ANALYSES: Registry[type[Analysis]] = Registry("analysis", "neuronsteer.analysis", "analyses")


def analysis(what: str | Analysis, **parameters: Any) -> Analysis:
    """Return the analysis called `what`, with these parameters.

    Raises:
        UnknownNameError: If there is no such analysis.
        ParameterError: If it has no such parameter, or a value is out of range.
    """
    if isinstance(what, Analysis):
        return dataclasses.replace(what, **parameters) if parameters else what
    return create(Analysis, ANALYSES, what, parameters)


def analyze(what: str | Analysis, *inputs: Any, **options: Any) -> Result:
    """Run one analysis and return its result: `records()`, `facts`, `to_json()`, `plot()`.

    Args:
        what: Name of an analysis (`neuronsteer analyze --list`), or an analysis.
        *inputs: What it needs, in its order, e.g. a neuron set; or model, tokenizer and texts.
        **options: The same by name (`neurons=`, `other=`, `stats=`, `parts=`, `model=`,
            `tokenizer=`, `texts=`), and parameters of the analysis.

    Example:
        >>> from neuronsteer.neuron_set import NeuronSet
        >>> neurons = NeuronSet.from_rows(
        ...     ["en", "fr"], label=[0, 1, 1], layer=[0, 0, 2], index=[5, 5, 7],
        ...     site="mlp.act", num_layers=4, width=32,
        ... )
        >>> analyze("sharing", neurons).facts["shared"]
        0.5

    Raises:
        UnknownNameError: If there is no such analysis.
        ParameterError: If an input is missing or superfluous, or a parameter is wrong.
    """
    kind = type(what) if isinstance(what, Analysis) else ANALYSES.get(what)
    given: dict[str, Any] = {name: options.pop(name) for name in list(options) if name in INPUTS}
    chosen = analysis(what, **options)
    if len(inputs) > len(kind.needs):
        raise ParameterError(
            f"The analysis {kind.name!r} takes {_list(kind.needs)}; got {len(inputs)} inputs."
        )
    for name, value in zip(kind.needs, inputs, strict=False):
        if name in given:
            raise ParameterError(f"The analysis {kind.name!r} got {name!r} twice.")
        given[name] = value
    strange = [name for name in given if name not in kind.needs]
    missing = [name for name in kind.needs if given.get(name) is None]
    if strange or missing:
        raise ParameterError(
            f"The analysis {kind.name!r} needs {_list(kind.needs)}; "
            + (f"missing: {', '.join(missing)}." if missing else f"not {', '.join(strange)}.")
        )
    return chosen.run(*(given[name] for name in kind.needs))


def _list(needs: Sequence[str]) -> str:
    return ", ".join(f"{name} ({INPUTS[name]})" for name in needs)


def _source(value: Any) -> Any:
    """Return what identifies a source, JSON-plain."""
    if isinstance(value, str) or value is None:
        return value
    found: dict[str, str | None] = {"kind": type(value).__name__}
    for name in ("fingerprint", "base_model", "base_revision", "revision", "name_or_path"):
        text = getattr(value, name, None)
        if isinstance(text, str) and text and not inspect.ismethod(text):
            # `name_or_path` of a model may be a folder of this machine.
            found[name] = public_name(text) if name in ("base_model", "name_or_path") else text
    return found


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
