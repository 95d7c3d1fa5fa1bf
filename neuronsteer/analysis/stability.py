"""How much of a neuron set is found again with other text."""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..detectors import DETECTORS, Detector, detect, detector
from ..errors import ParameterError
from ..evaluation.comparison import Comparison
from ..neuron_set import NeuronSet
from ..stats import Stats, collect
from . import ANALYSES, Analysis, Result
from ._lines import lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DESIGNS = ("auto", "halves", "pairs")

# Fewer parts have too few different halves.
_HALVES = 4


@dataclasses.dataclass(frozen=True)
class Splits(Analysis):
    """Base of both analyses of this file; see `Stability` for the parameters."""

    title: ClassVar[str] = "Neurons found again with other text (Jaccard)"
    question: ClassVar[str] = "Would other texts have given the same neurons?"

    method: str = "lape"
    rate: float | None = None
    options: Mapping[str, Any] | None = None
    design: str = "auto"
    seeds: int = 10

    def __post_init__(self) -> None:
        if self.design not in DESIGNS or self.seeds < 1:
            raise ParameterError(
                f"{self.name} got design={self.design!r}, seeds={self.seeds}; expected one of "
                f"{', '.join(DESIGNS)} and at least 1."
            )

    def compare(
        self, parts: Sequence[Stats | NeuronSet] | Mapping[str, Stats | NeuronSet]
    ) -> Result:
        """Return the result for these parts."""
        named = (
            dict(parts)
            if isinstance(parts, Mapping)
            else {str(i): each for i, each in enumerate(parts)}
        )
        if len(named) < 2:
            raise ParameterError(f"{self.name} compares; got {len(named)} part of a corpus.")
        all_stats = all(isinstance(each, Stats) for each in named.values())
        enough = len(named) >= _HALVES and all_stats
        design = self.design
        if design == "auto":
            design = "halves" if enough and not isinstance(parts, Mapping) else "pairs"
        if design == "halves" and not enough:
            raise ParameterError(
                f"Random halves need statistics of at least {_HALVES} parts; got {len(named)}"
                + ("." if all_stats else " neuron sets, which do not add up.")
            )
        splits = self._halves(named) if design == "halves" else self._pairs(named)
        records = [
            {"split": split, "label": label, **numbers}
            for split, left, right in splits
            for label, numbers in _overlap(left, right).items()
        ]
        return self.result(records, self._facts(records, design, len(named)), *named.values())

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the mean per label, the range over splits, and chance."""
        from ..plots import bars

        found: dict[str, list[float]] = {}
        for row in result.rows:
            if row["jaccard"] is not None:
                found.setdefault(row["label"], []).append(row["jaccard"])
        facts = result.facts["labels"]
        return bars(
            {
                "found again": {label: each["jaccard"] for label, each in facts.items()},
                "by chance": {label: each["chance"] for label, each in facts.items()},
            },
            intervals={
                "found again": {
                    label: (min(each), max(each)) for label, each in found.items() if len(each) > 1
                }
            },
            title=cls.title,
            value_name="Jaccard index",
            form=".2f",
            limits=(0.0, 1.05),
            note="Whiskers: smallest and largest of the splits.",
        )

    def chosen(self) -> Detector:
        """Return the detector that the parameters name."""
        given = dict(self.options or {})
        known = {field.name for field in dataclasses.fields(DETECTORS.get(self.method))}
        if self.rate is not None:
            if "rate" not in known:
                raise ParameterError(f"The method {self.method!r} has no parameter 'rate'.")
            given["rate"] = self.rate
        return detector(self.method, **given)

    def _found(self, part: Stats | NeuronSet) -> NeuronSet:
        return part if isinstance(part, NeuronSet) else detect(part, self.chosen())

    def _halves(self, named: dict[str, Any]) -> list[tuple[str, NeuronSet, NeuronSet]]:
        names, rng = list(named), random.Random(0)
        splits: list[tuple[str, NeuronSet, NeuronSet]] = []
        for seed in range(self.seeds):
            order = rng.sample(names, len(names))
            sides = order[: len(names) // 2], order[len(names) // 2 :]
            left, right = (
                self._found(named[first].merge(*(named[name] for name in rest)))
                for first, *rest in sides
            )
            splits.append((str(seed), left, right))
        return splits

    def _pairs(self, named: dict[str, Any]) -> list[tuple[str, NeuronSet, NeuronSet]]:
        found = {name: self._found(part) for name, part in named.items()}
        return [
            (f"{left} & {right}", found[left], found[right])
            for left, right in itertools.combinations(named, 2)
        ]

    def _facts(self, records: list[dict[str, Any]], design: str, parts: int) -> dict[str, Any]:
        labels: dict[str, dict[str, float | None]] = {}
        for label in dict.fromkeys(row["label"] for row in records):
            mine = [row for row in records if row["label"] == label]
            values = [row["jaccard"] for row in mine if row["jaccard"] is not None]
            chance = [row["chance"] for row in mine if row["chance"] is not None]
            labels[label] = {
                "jaccard": statistics.fmean(values) if values else None,
                "sd": statistics.stdev(values) if len(values) > 1 else None,
                "chance": statistics.fmean(chance) if chance else None,
                "neurons": statistics.fmean((row["left"] + row["right"]) / 2 for row in mine),
            }
        means = [each["jaccard"] for each in labels.values() if each["jaccard"] is not None]
        return {
            "design": design,
            "parts": parts,
            "labels": labels,
            "mean": statistics.fmean(means) if means else None,
        }


@ANALYSES.register("stability")
@dataclasses.dataclass(frozen=True)
class Stability(Splits):
    """Detect on different text and compare what is found, per label.

    Given a list of at least four parts of a corpus, these are put into two halves at random,
    `seeds` times (the parts' statistics add up, so no text is read again). Given names and
    statistics, e.g. of different corpora, or neuron sets found elsewhere, every two are compared.

    Records: `split` (number of the seed, or the two names), `label`, `left` and `right` (neurons
    found), `both`, `jaccard`, `chance` (of random sets of the same sizes, to first order). Facts,
    per label: `jaccard` (mean), `sd` over splits, `chance`; `mean` over labels. Random halves
    overlap each other, so `sd` is not a standard error; and half the text finds other neurons than
    all of it: what is measured is a lower bound for the stability of the full set.

    Args:
        method: The detector.
        rate: Its share of neurons, if it has such a parameter; `None`: its default.
        options: Its other parameters.
        design: `"halves"`, `"pairs"` or, by what is given, `"auto"`.
        seeds: Number of random halves.
    """

    name: ClassVar[str] = "stability"
    needs: ClassVar[tuple[str, ...]] = ("parts",)

    def run(self, parts: Sequence[Stats | NeuronSet] | Mapping[str, Stats | NeuronSet]) -> Result:
        """Compare."""
        return self.compare(parts)


@ANALYSES.register("split_half")
@dataclasses.dataclass(frozen=True)
class SplitHalf(Splits):
    """Read texts in parts, and compare the neurons of random halves; see `Stability`.

    Every text is read once. Parts are dealt like cards, so that each has texts from all over the
    corpus.

    Args:
        method: The detector.
        rate: Its share of neurons, if it has such a parameter; `None`: its default.
        options: Its other parameters.
        design: As in `stability`.
        seeds: Number of random halves.
        pieces: Into how many parts the texts are dealt.
        limit: Texts per label; `None` reads all.
    """

    name: ClassVar[str] = "split_half"
    needs: ClassVar[tuple[str, ...]] = ("model", "tokenizer", "texts")

    pieces: int = 8
    limit: int | None = 400

    def run(self, model: Any, tokenizer: Any, texts: Any) -> Result:
        """Read, detect and compare."""
        if self.pieces < _HALVES:
            raise ParameterError(f"split_half got pieces={self.pieces}; at least {_HALVES}.")
        found = lines(texts, self.limit)
        for label, each in found.items():
            if len(each) < self.pieces:
                raise ParameterError(
                    f"Label {label!r} has {len(each)} texts for {self.pieces} parts; give more "
                    "texts or fewer pieces."
                )
        needs = self.chosen().needs
        parts = [
            collect(
                model,
                tokenizer,
                {label: each[i :: self.pieces] for label, each in found.items()},
                needs=needs,
                progress=False,
            )
            for i in range(self.pieces)
        ]
        return self.compare(parts)


def _overlap(left: NeuronSet, right: NeuronSet) -> dict[str, dict[str, Any]]:
    both = Comparison({"left": left, "right": right})
    index, chance = both.overlap("left", "right"), both.chance("left", "right")
    found: dict[str, dict[str, Any]] = {}
    for label, jaccard in index.items():
        sizes = [each.counts.get(label, 0) for each in (left, right)]
        found[label] = {
            "left": sizes[0],
            "right": sizes[1],
            # Jaccard = both / (left + right - both), solved for both.
            "both": None if jaccard is None else round(jaccard * sum(sizes) / (1 + jaccard)),
            "jaccard": jaccard,
            "chance": chance[label],
        }
    return found
