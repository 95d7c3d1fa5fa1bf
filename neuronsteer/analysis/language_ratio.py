"""Own language against pivot language in every layer, and the three parts this makes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import ParameterError, did_you_mean
from . import ANALYSES, Result
from ._segments import caption, cut
from ._tokens import OTHER
from .logit_lens import Lensed, tabulated

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARTS = ("understanding", "reasoning", "generation")


@ANALYSES.register("language_ratio")
@dataclasses.dataclass(frozen=True)
class LanguageRatio(Lensed):
    """Measure in every layer whether a text continues in its own language or in the pivot.

    The reading is that of `logit_lens`, over texts of every label but the pivot. Among tokens of
    known language, `own` is the share of the text's language, `pivot` that of the pivot language,
    and the ratio `pivot / (pivot + own)` says which of the two a layer leans to.

    The mean ratio over labels is cut into three stretches, each as uniform as possible
    (exactly, by dynamic programming). If the middle one leans most to the pivot, that is the shape
    of the paper: the first layers understand the text, the middle ones reason in the pivot
    language, the last ones generate. `follows_the_paper` says whether it is so, and `explained`
    how much of the variance over layers the cut accounts for, beside `by_chance`, what it accounts
    for with the layers shuffled. Any curve can be cut; small models often show no such shape.

    Records: `label`, `layer`, `own`, `pivot`, `others`, `unknown` (share of tokens of no known
    language), `ratio`. Facts: `split` {part: [first, last layer]}, `ratio` per layer,
    `follows_the_paper`, `explained`, `by_chance`.

    Args:
        pivot: The label that the model may be thinking in.
        by: As in `logit_lens`; with `"script"`, the pivot is a script.
        top: As in `logit_lens`.
        limit: As in `logit_lens`.
        max_length: As in `logit_lens`.
        skip: As in `logit_lens`.
        batch_size: As in `logit_lens`.
        lens: As in `logit_lens`.

    Paper: Zhao et al. (2024), "How do Large Language Models Handle Multilingualism?"
    (arXiv:2402.18815). Its code counts decoded tokens with a language identifier; here tokens carry
    shares, because single tokens are too short to identify.
    """

    name: ClassVar[str] = "language_ratio"
    title: ClassVar[str] = "Leaning to the pivot language"
    question: ClassVar[str] = "Which layers understand, reason and generate?"
    paper: ClassVar[str] = "Zhao et al. 2024, MWork (arXiv:2402.18815)"

    pivot: str = "en"

    def run(self, model: Any, tokenizer: Any, texts: Any) -> Result:
        """Read the texts."""
        if self.by != "language":
            raise ParameterError(
                f"language_ratio got by={self.by!r}: a script is not a language; use "
                "logit_lens for that."
            )
        if isinstance(texts, Mapping):
            self._check(list(texts))
        read, seen = self.records(model, tokenizer, texts)
        self._check(seen["labels"])
        if seen["num_layers"] < len(PARTS):
            raise ParameterError(
                f"A model of {seen['num_layers']} layers cannot be divided into {', '.join(PARTS)}."
            )
        records = [
            {"label": label, "layer": layer, **_leaning(each, label, self.pivot)}
            for label, layers in tabulated(read).items()
            if label != self.pivot
            for layer, each in enumerate(layers)
        ]
        ratio = mean_ratio(records, seen["num_layers"])
        known = [0.5 if value is None else value for value in ratio]
        found = cut([[value] for value in known], len(PARTS))
        means = [sum(known[a : b + 1]) / (b - a + 1) for a, b in found.spans]
        facts = {
            "pivot": self.pivot,
            "num_layers": seen["num_layers"],
            "split": {part: list(span) for part, span in zip(PARTS, found.spans, strict=True)},
            "means": dict(zip(PARTS, means, strict=True)),
            "follows_the_paper": found.explained is not None
            and means[1] > means[0]
            and means[1] > means[2],
            "explained": found.explained,
            "by_chance": found.by_chance,
            "ratio": ratio,
            "positions": seen["positions"],
        }
        return self.result(records, facts, model, tokenizer)

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the ratio of every label, and the cut."""
        from ..plots import layer_profile

        facts = result.facts
        profiles: dict[str, list[float | None]] = {}
        for row in result.rows:
            profiles.setdefault(row["label"], []).append(row["ratio"])
        mean = {"mean": facts["ratio"]} if len(profiles) > 1 else {}
        return layer_profile(
            mean | profiles,
            title=f"{cls.title} ({facts['pivot']})",
            value_name=f"{facts['pivot']} / ({facts['pivot']} + own language)",
            kind="lines",
            spans=[(first, last, part) for part, (first, last) in facts["split"].items()],
            limits=(0.0, 1.0),
            note=caption(facts, "three"),
        )

    def _check(self, labels: Sequence[str]) -> None:
        if self.pivot not in labels or len(labels) < 2:
            raise ParameterError(
                f"language_ratio has the pivot {self.pivot!r}, but there are texts of "
                f"{', '.join(labels)}; it needs texts of the pivot and of another label."
                f"{did_you_mean(self.pivot, labels)}"
            )


def mean_ratio(records: Sequence[dict[str, Any]], depth: int) -> list[float | None]:
    """Return the mean ratio over labels, per layer."""
    found: list[float | None] = []
    for layer in range(depth):
        values = [
            row["ratio"] for row in records if row["layer"] == layer and row["ratio"] is not None
        ]
        found.append(sum(values) / len(values) if values else None)
    return found


def _leaning(shares: dict[str, float], label: str, pivot: str) -> dict[str, float | None]:
    unknown = shares[OTHER]
    known = max(1e-12, sum(shares.values()) - unknown)
    own, to = shares[label] / known, shares[pivot] / known
    return {
        "own": own,
        "pivot": to,
        "others": max(0.0, 1 - own - to),
        "unknown": unknown,
        "ratio": to / (to + own) if to + own > 0 else None,
    }
