"""Several methods on the same statistics, side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..detectors import Detector, detect, detector
from ..errors import ParameterError, UnknownNameError, did_you_mean
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import same_space

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table

    from ..stats import Stats

Method = str | Detector | NeuronSet | Mapping[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """The sets that methods found, and how much they have in common.

    Sets can be compared where neuron i of one is neuron i of the other (`mlp.act` and `mlp.neuron`
    are), and for labels that both have; elsewhere an overlap is `None`.

    Attributes:
        sets: Name → set, in the order they were asked for.
    """

    sets: dict[str, NeuronSet]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the methods."""
        return tuple(self.sets)

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of all sets, in order of appearance."""
        return tuple(dict.fromkeys(label for each in self.sets.values() for label in each.labels))

    def overlap(self, left: str, right: str) -> dict[str, float | None]:
        """Return per label the Jaccard index: neurons in both over neurons in either."""
        return {
            label: None if pair is None else _jaccard(*pair)
            for label, pair in self._pairs(left, right).items()
        }

    def chance(self, left: str, right: str) -> dict[str, float | None]:
        """Return per label the overlap that random sets of the same sizes have, on average.

        To first order: the expected intersection over the union that goes with it.
        """
        total = sum(self._set(left).width_per_layer)
        found: dict[str, float | None] = {}
        for label, pair in self._pairs(left, right).items():
            found[label] = None
            if pair is not None:
                sizes = len(pair[0]), len(pair[1])
                both = sizes[0] * sizes[1] / total
                found[label] = both / (sum(sizes) - both) if sum(sizes) else None
        return found

    def overlap_by_layer(self, left: str, right: str) -> dict[str, list[float | None] | None]:
        """Return per label the Jaccard index within every layer."""
        width, layers = self._set(left).width, self._set(left).num_layers
        found: dict[str, list[float | None] | None] = {}
        for label, pair in self._pairs(left, right).items():
            found[label] = None
            if pair is not None:
                mine, theirs = pair
                found[label] = [
                    _jaccard(mine[mine // width == layer], theirs[theirs // width == layer])
                    for layer in range(layers)
                ]
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        return {
            "methods": {
                name: {
                    "method": each.method,
                    "site": each.site,
                    "counts": each.counts,
                    "neurons": each.num_neurons,
                    "orphans": each.orphans,
                    "sharing": {str(owners): n for owners, n in each.sharing().items()},
                    "layers": dict(zip(each.labels, each.layer_profile().tolist(), strict=True)),
                }
                for name, each in self.sets.items()
            },
            "overlap": [
                {
                    "left": left,
                    "right": right,
                    "labels": self.overlap(left, right),
                    "chance": self.chance(left, right),
                    "layers": self.overlap_by_layer(left, right),
                }
                for left, right in combinations(self.names, 2)
            ],
        }

    def table(self) -> Table:
        """Return a Rich table: a block per method, then a row per pair of methods."""
        from rich.markup import escape
        from rich.table import Table

        labels = self.labels
        table = Table(title="Neurons per label, and overlap (Jaccard) of each two methods")
        table.add_column("method", style="bold")
        for label in (*labels, "all", "shared"):
            table.add_column(escape(label), justify="right")
        for name, each in self.sets.items():
            counts = [str(each.counts.get(label, "–")) for label in labels]
            shared = sum(n for owners, n in each.sharing().items() if owners > 1)
            table.add_row(escape(name), *counts, str(each.num_neurons), str(shared))
        if len(self.sets) > 1:
            table.add_section()
        for left, right in combinations(self.names, 2):
            found = self.overlap(left, right)
            shown = [_percent(found.get(label)) for label in labels]
            table.add_row(escape(f"{left} & {right}"), *shown, "", "")
        return table

    def plot(self, what: str = "overlap") -> Figure:
        """Return a plot; `neuronsteer.plots.save(figure, path)` writes it.

        Args:
            what: `"overlap"`: per label and pair of methods; `"layers"`: where in the model each
                method finds neurons; `"sharing"`: how many labels own a neuron; `"counts"`.

        Raises:
            MissingExtraError: If matplotlib is not installed (extra `plots`).
        """
        from .. import plots

        if what == "overlap":
            pairs = list(combinations(self.names, 2))
            if not pairs:
                raise ParameterError("There is one method only; overlap needs two.")
            rows = [self.overlap(*pair) for pair in pairs]
            return plots.heatmap(
                [[row.get(label) for label in self.labels] for row in rows],
                [" & ".join(pair) for pair in pairs],
                self.labels,
                title="Overlap of methods (Jaccard)",
                value_name="neurons in both / in either",
                limits=(0.0, max((v for r in rows for v in r.values() if v), default=1.0)),
            )
        if what == "layers":
            profiles: dict[str, list[float | None]] = {}
            for name, each in self.sets.items():
                counts = each.layer_profile().sum(0)
                profiles[name] = (counts / max(1, int(counts.sum()))).tolist()
            depth = max(map(len, profiles.values()))
            # Of a shallower model the layers end earlier.
            padded = {n: [*p, *([None] * (depth - len(p)))] for n, p in profiles.items()}
            return plots.layer_profile(
                padded, title="Neurons per layer", value_name="share of the set's rows"
            )
        if what == "sharing":
            return plots.sharing({name: each.sharing() for name, each in self.sets.items()})
        if what == "counts":
            return plots.bars(
                {name: dict(each.counts) for name, each in self.sets.items()},
                title="Neurons per label",
                value_name="neurons",
                form=",.0f",
            )
        options = ("overlap", "layers", "sharing", "counts")
        raise ParameterError(
            f"what={what!r} is not a plot of a comparison; there are {', '.join(options)}."
            f"{did_you_mean(what, options)}"
        )

    def facts(self, reference: str) -> dict[str, dict[str, str]]:
        """Return columns for a table of the methods: heading → name → text.

        The site, the rows per label, the share of neurons that several labels own, and the mean
        overlap with the method called `reference`.
        """
        found: dict[str, dict[str, str]] = {}
        for name, each in self.sets.items():
            several = sum(n for owners, n in each.sharing().items() if owners > 1)
            same = [x for x in self.overlap(name, reference).values() if x is not None]
            for heading, text in (
                ("site", each.site),
                ("per label", f"{len(each) / len(each.labels):.0f}"),
                ("of several", f"{several / max(each.num_neurons, 1):.0%}"),
                (f"overlap with {reference}", f"{sum(same) / len(same):.2f}" if same else "–"),
            ):
                found.setdefault(heading, {})[name] = text
        return found

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {each.num_neurons}" for name, each in self.sets.items())
        return f"Comparison({parts} neurons)"

    def _set(self, name: str) -> NeuronSet:
        if name not in self.sets:
            raise UnknownNameError(
                f"No method {name!r} was compared.{did_you_mean(name, self.names)} There are "
                f"{', '.join(self.names)}."
            )
        return self.sets[name]

    def _pairs(self, left: str, right: str) -> dict[str, tuple[Tensor, Tensor] | None]:
        """Return per label the neurons of both, as `layer * width + index`."""
        mine, theirs = self._set(left), self._set(right)
        alike = same_space(mine.site, theirs.site)
        if alike and mine.width_per_layer != theirs.width_per_layer:
            raise ParameterError(
                f"{left!r} and {right!r} were found in models of different shape: "
                f"{mine.num_layers} layers of {mine.width} and {theirs.num_layers} layers of "
                f"{theirs.width}."
            )
        return {
            label: (mine.rows(label).neuron_keys(), theirs.rows(label).neuron_keys())
            if alike and label in mine.labels and label in theirs.labels
            else None
            for label in dict.fromkeys(mine.labels + theirs.labels)
        }


def compare(
    stats: Stats, methods: Iterable[Method] = ("lape", "effect"), **parameters: Any
) -> Comparison:
    """Run several methods on the same statistics and compare what they find.

    Args:
        stats: What every method reads.
        methods: Names of detectors, detectors, `{"name": …, "rate": …}`, or sets already found.
        **parameters: Given to every method that has a parameter of that name.

    Raises:
        StatsError: If the statistics lack what a method needs.
        ParameterError: If no method takes a parameter.
    """
    given: list[Method] = [methods] if isinstance(methods, str) else list(methods)
    if not given:
        raise ParameterError("Nothing to compare: give at least one method.")
    made: list[NeuronSet | Detector] = [
        each if isinstance(each, NeuronSet) else _detector(each) for each in given
    ]
    taken = {n for each in made if isinstance(each, Detector) for n in _fields(each)}
    for name in parameters:
        if name not in taken:
            raise ParameterError(
                f"None of the methods has a parameter {name!r}.{did_you_mean(name, taken)}"
            )
    sets: dict[str, NeuronSet] = {}
    for each in made:
        if isinstance(each, Detector):
            fitting = {n: value for n, value in parameters.items() if n in _fields(each)}
            each = detect(stats, each, **fitting)
        base = name = str(each.method.get("name", "set"))
        # The same method with other parameters is another line.
        number = 1
        while name in sets:
            number += 1
            name = f"{base} {number}"
        sets[name] = each
    return Comparison(sets)


def _detector(method: str | Detector | Mapping[str, Any]) -> Detector:
    if not isinstance(method, Mapping):
        return detector(method)
    parameters = dict(method)
    name = parameters.pop("name", None)
    if not isinstance(name, str):
        raise ParameterError(f"A method needs a 'name', found only {sorted(method)}.")
    return detector(name, **parameters)


def _fields(method: Detector) -> set[str]:
    return {field.name for field in dataclasses.fields(method)}


def _jaccard(left: Tensor, right: Tensor) -> float | None:
    both = int(torch.isin(left, right).sum())
    either = len(left) + len(right) - both
    return both / either if either else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
