"""Analyses: where labels live in a model, what they share, how sure one can be of it.

An analysis is a frozen dataclass of parameters with a method `run`, which returns a `Result`:
records for a DataFrame, headline facts, and enough to draw the plot again from its JSON. A new one
is a new file in this folder that registers itself with `@ANALYSES.register("name")`.
"""

from __future__ import annotations

import dataclasses
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ParameterError, did_you_mean
from ..registry import Registry
from ._result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ANALYSES", "Analysis", "Result", "analysis", "analyze"]

#: What an analysis can be given, and what that is.
MATERIAL = {
    "neurons": "a NeuronSet",
    "other": "a NeuronSet or Stats to compare with",
    "stats": "Stats",
    "parts": "several Stats of one model: a list, or a mapping of names",
    "model": "a causal language model",
    "tokenizer": "its tokenizer",
    "texts": "texts per label: a mapping, or a folder with one file per label",
}


@dataclasses.dataclass(frozen=True)
class Analysis(ABC):
    """Base of all analyses. Fields are the parameters; they are written into the result.

    Class attributes:
        name: What the registry and the command line call it.
        title: What a person calls it; the title of the plot.
        question: The question that it answers, in one line.
        needs: What `run` is given, in this order; names of `MATERIAL`.
        paper: What to cite, if it is somebody's.
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
                "parameters": {name: _named(value) for name, value in self.parameters().items()},
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
    kind = ANALYSES.get(what)
    known = [field.name for field in dataclasses.fields(kind)]
    for name in parameters:
        if name not in known:
            raise ParameterError(
                f"The analysis {what!r} has no parameter {name!r}.{did_you_mean(name, known)} It "
                f"takes {', '.join(known) or 'none'}, and as material {', '.join(kind.needs)}."
            )
    return kind(**parameters)


def analyze(what: str | Analysis, *material: Any, **options: Any) -> Result:
    """Run one analysis and return its result: `records()`, `facts`, `to_json()`, `plot()`.

    Args:
        what: Name of an analysis (`neuronsteer analyze --list`), or an analysis.
        *material: What it needs, in its order, e.g. a neuron set; or model, tokenizer and texts.
        **options: The same by name (`neurons=`, `other=`, `stats=`, `parts=`, `model=`,
            `tokenizer=`, `texts=`), and parameters of the analysis.

    Example:
        >>> from neuronsteer.neuron_set import NeuronSet
        >>> neurons = NeuronSet.from_rows(
        ...     ["en", "fr"], label=[0, 1, 1], layer=[0, 0, 2], index=[5, 5, 7],
        ...     site="mlp.act", num_layers=4, d_ff=32,
        ... )
        >>> analyze("sharing", neurons).facts["shared"]
        0.5

    Raises:
        UnknownNameError: If there is no such analysis.
        ParameterError: If material is missing or too much, or a parameter is wrong.
    """
    kind = type(what) if isinstance(what, Analysis) else ANALYSES.get(what)
    given: dict[str, Any] = {name: options.pop(name) for name in list(options) if name in MATERIAL}
    chosen = analysis(what, **options)
    if len(material) > len(kind.needs):
        raise ParameterError(
            f"The analysis {kind.name!r} takes {_list(kind.needs)}; got {len(material)} things."
        )
    for name, value in zip(kind.needs, material, strict=False):
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
    return ", ".join(f"{name} ({MATERIAL[name]})" for name in needs)


def _named(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, list | tuple):
        return [_named(each) for each in value]
    return str(getattr(value, "name", None) or getattr(value, "__name__", type(value).__name__))


def _source(value: Any) -> Any:
    """Return what identifies a source, JSON-plain."""
    if isinstance(value, str) or value is None:
        return value
    found = {"kind": type(value).__name__}
    for name in ("fingerprint", "base_model", "base_revision", "revision", "name_or_path"):
        # `name_or_path` of a model may be a folder of this machine: only its last part is kept.
        text = getattr(value, name, None)
        if isinstance(text, str) and text and not inspect.ismethod(text):
            found[name] = text.rstrip("/").rpartition("/")[2] if text.startswith("/") else text
    return found
