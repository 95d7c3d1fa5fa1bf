"""How much every two labels share, and whether related languages share more."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ..errors import ParameterError
from . import ANALYSES, Analysis, Result, _relatives

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..neuron_set import NeuronSet

# All orders of up to so many labels are tried; of more, `permutations` random ones.
_EXACT = 7


@ANALYSES.register("overlap")
@dataclasses.dataclass(frozen=True)
class Overlap(Analysis):
    """Compare the neurons of every two labels, and the result with how the languages are related.

    Records, one per pair: `left`, `right`, `both`, `either`, `jaccard`, `chance` (Jaccard index of
    random sets with as many neurons in each layer, to first order), `relation` (same branch, same
    family, unrelated; `None` if a label is not in the short list of languages), `same_script`.

    Facts: `mean` Jaccard index, `by_relation` and `by_script` (means and pairs), and two tests,
    `relatedness` and `script`: Spearman's rank correlation of the index with the likeness of the
    languages, and its one-sided p by permuting whole languages (a Mantel test; pairs that have a
    language in common are not independent). With few neurons per label, a single shared one moves
    the index; `None` where all pairs are equally alike.

    Args:
        permutations: Random permutations, where there are more than seven languages.
        seed: Seed of these.
    """

    name: ClassVar[str] = "overlap"
    title: ClassVar[str] = "Overlap of labels (Jaccard)"
    question: ClassVar[str] = "Which labels share neurons, and do related languages share more?"
    needs: ClassVar[tuple[str, ...]] = ("neurons",)

    permutations: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.permutations < 1:
            raise ParameterError(f"overlap got permutations={self.permutations}; at least 1.")

    def run(self, neurons: NeuronSet) -> Result:
        """Compare every two labels."""
        labels = neurons.labels
        if len(labels) < 2:
            raise ParameterError(
                f"Overlap compares labels, but this set has only {', '.join(labels)}."
            )
        keys = [neurons.rows(label).neuron_keys() for label in labels]
        profile, widths = neurons.layer_profile().tolist(), neurons.width_per_layer
        records: list[dict[str, Any]] = []
        for i, j in itertools.combinations(range(len(labels)), 2):
            both = int(torch.isin(keys[i], keys[j]).sum())
            either = len(keys[i]) + len(keys[j]) - both
            expected = sum(
                a * b / w for a, b, w in zip(profile[i], profile[j], widths, strict=True)
            )
            union = len(keys[i]) + len(keys[j]) - expected
            records.append(
                {
                    "left": labels[i],
                    "right": labels[j],
                    "both": both,
                    "either": either,
                    "jaccard": both / either if either else None,
                    "chance": expected / union if union else None,
                    "relation": _relatives.relation(labels[i], labels[j]),
                    "same_script": _relatives.share_a_script(labels[i], labels[j]),
                }
            )
        known = [row["jaccard"] for row in records if row["jaccard"] is not None]
        steps = {
            _relatives.SAME_BRANCH: 2.0,
            _relatives.SAME_FAMILY: 1.0,
            _relatives.UNRELATED: 0.0,
        }
        facts = {
            "labels": list(labels),
            "mean": sum(known) / len(known) if known else None,
            "by_relation": _means(records, "relation"),
            "by_script": _means(records, "same_script"),
            "relatedness": self._test(
                labels, records, [steps.get(row["relation"]) for row in records]
            ),
            "script": self._test(
                labels,
                records,
                [
                    None if row["same_script"] is None else float(row["same_script"])
                    for row in records
                ],
            ),
        }
        return self.result(records, facts, neurons)

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the matrix, languages of one branch side by side."""
        from ..plots import overlap

        labels = result.facts["labels"]
        position = {label: i for i, label in enumerate(labels)}
        table: list[list[float | None]] = [[None] * len(labels) for _ in labels]
        for row in result.rows:
            i, j = position[row["left"]], position[row["right"]]
            table[i][j] = table[j][i] = row["jaccard"]
        groups = {label: (_relatives.family(label) or "").rpartition("/")[2] for label in labels}
        return overlap(table, labels, groups=groups, title=cls.title, note=_said(result.facts))

    def _test(
        self, labels: Sequence[str], records: Sequence[dict[str, Any]], alike: list[float | None]
    ) -> dict[str, Any] | None:
        """Return rank correlation and p over the labels of which both numbers are known."""
        known = [
            (row["left"], row["right"], row["jaccard"], like)
            for row, like in zip(records, alike, strict=True)
            if like is not None and row["jaccard"] is not None
        ]
        names = [name for name in labels if any(name in pair[:2] for pair in known)]
        place = {name: i for i, name in enumerate(names)}
        if len(names) < 3 or len({like for *_, like in known}) < 2:
            return None
        pairs = [(place[left], place[right]) for left, right, *_ in known]
        found = _ranks([jaccard for *_, jaccard, _ in known])
        likeness = np.full((len(names), len(names)), np.nan)
        for (i, j), rank in zip(pairs, _ranks([like for *_, like in known]), strict=True):
            likeness[i, j] = likeness[j, i] = rank
        here = _correlation(found, likeness, pairs, range(len(names)))
        if here is None:
            return None
        rng = random.Random(self.seed)
        exact = len(names) <= _EXACT
        orders = (
            itertools.permutations(range(len(names)))
            if exact
            else (rng.sample(range(len(names)), len(names)) for _ in range(self.permutations))
        )
        drawn = [_correlation(found, likeness, pairs, order) for order in orders]
        least = sum(each is not None and each >= here - 1e-12 for each in drawn)
        # The order as it is counts as one of the random ones; among all orders it already is.
        p = least / len(drawn) if exact else (least + 1) / (len(drawn) + 1)
        return {"spearman": here, "p": p, "pairs": len(pairs), "exact": exact}


def _means(records: Sequence[dict[str, Any]], column: str) -> dict[str, dict[str, float | int]]:
    found: dict[str, list[float]] = {}
    for row in records:
        if row[column] is not None and row["jaccard"] is not None:
            name = row[column]
            if isinstance(name, bool):
                name = "same script" if name else "different scripts"
            found.setdefault(name, []).append(row["jaccard"])
    return {
        name: {"jaccard": sum(values) / len(values), "pairs": len(values)}
        for name, values in found.items()
    }


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return ranks; equal values get the mean of theirs."""
    array = np.asarray(values, dtype=np.float64)
    _, inverse, count = np.unique(array, return_inverse=True, return_counts=True)
    ends = np.cumsum(count)
    return (ends - (count - 1) / 2)[inverse]


def _correlation(
    found: np.ndarray, likeness: np.ndarray, pairs: Sequence[tuple[int, int]], order: Sequence[int]
) -> float | None:
    other = np.array([likeness[order[i], order[j]] for i, j in pairs])
    mine = found[np.isfinite(other)]
    other = other[np.isfinite(other)]
    if len(mine) < 3 or mine.std() == 0 or other.std() == 0:
        return None
    value = float(np.corrcoef(mine, other)[0, 1])
    return value if math.isfinite(value) else None


def _said(facts: dict[str, Any]) -> str | None:
    parts = [
        f"{name}: \u03c1 = {test['spearman']:.2f}, p = {test['p']:.2g}"
        for name in ("relatedness", "script")
        if (test := facts.get(name))
    ]
    return ("Overlap against likeness of languages; " + "; ".join(parts) + ".") if parts else None
