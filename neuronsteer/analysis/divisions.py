"""Four parts of a model, by where specific, related and general neurons are."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from ..detectors import detect
from ..detectors.ternary import GENERAL, KINDS, RELATED, SPECIFIC, classify
from ..errors import ParameterError
from . import ANALYSES, Analysis, Result
from ._segments import caption, cut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ..stats import Stats

PARTS = ("understanding", "reasoning", "transformation", "vocabulary")


@ANALYSES.register("divisions")
@dataclasses.dataclass(frozen=True)
class Divisions(Analysis):
    """Count specific, related and general neurons per layer, and cut the layers into four parts.

    Neurons are counted once, however many labels own them, with the `ternary` detector; `selected`
    are neurons of any kind. The three counts, each divided by its largest, are cut into four
    stretches of layers, each as uniform as possible (exactly, by dynamic programming).

    The paper reads off its plots, without a rule: the first layers understand the text (many
    language neurons, that is specific and related ones, that get fewer), the next reason in a space
    that languages share (few language neurons, many general ones), then the output is transformed
    (language neurons rise again), and the last layers produce vocabulary (language neurons fall,
    general ones rise). `follows_the_paper` is the part of this that can be checked: fewer language
    neurons in the second part than in the first and third, and fewer in the fourth than in the
    third. `explained` is the share of the variance over layers between the parts, `by_chance` the
    same with the layers shuffled: a model of few layers is always well explained by four parts.

    Records: `layer`, `part`, `specific`, `related`, `general`, `language` (the first two). Facts:
    `split` {part: [first, last layer]}, `means` per part and kind, `kinds` (totals),
    `follows_the_paper`, `explained`, `by_chance`.

    Args:
        rate: Share of all neurons that `ternary` selects.
        bar: Its bar for owning a neuron.
        lam: Its weight of the largest probability; `None` searches for it.
        variant: Its score: "paper" or "released".

    Paper: Zhang et al. (2025), "How does Alignment Enhance LLMs' Multilingual Capabilities? A
    Language Neurons Perspective" (arXiv:2505.21505).
    """

    name: ClassVar[str] = "divisions"
    title: ClassVar[str] = "Kinds of neurons per layer, and four parts of the model"
    question: ClassVar[str] = "Which layers understand, reason, transform and produce words?"
    needs: ClassVar[tuple[str, ...]] = ("stats",)
    paper: ClassVar[str] = "Zhang et al. 2025, Language Neurons and Alignment (arXiv:2505.21505)"

    rate: float = 0.01
    bar: float = 0.95
    lam: float | None = None
    variant: str = "paper"

    def run(self, stats: Stats) -> Result:
        """Detect, count and cut."""
        if stats.num_layers < len(PARTS):
            raise ParameterError(
                f"A model of {stats.num_layers} layers cannot be divided into {', '.join(PARTS)}."
            )
        neurons = detect(stats, "ternary", kinds="+".join(KINDS), **self.parameters())
        counts = {kind: found.neurons_per_layer() for kind, found in classify(neurons).items()}
        curve = [
            [counts[kind][layer] / (max(counts[kind]) or 1) for kind in KINDS]
            for layer in range(stats.num_layers)
        ]
        found = cut(curve, len(PARTS))
        records: list[dict[str, Any]] = [
            {
                "layer": layer,
                "part": part,
                **{kind: counts[kind][layer] for kind in KINDS},
                "language": counts[SPECIFIC][layer] + counts[RELATED][layer],
            }
            for part, (first, last) in zip(PARTS, found.spans, strict=True)
            for layer in range(first, last + 1)
        ]
        means = {
            part: {
                kind: _mean([row[kind] for row in records if row["part"] == part])
                for kind in (*KINDS, "language")
            }
            for part in PARTS
        }
        language = [means[part]["language"] for part in PARTS]
        facts = {
            "num_layers": stats.num_layers,
            "split": {part: list(span) for part, span in zip(PARTS, found.spans, strict=True)},
            "means": means,
            "kinds": {kind: sum(counts[kind]) for kind in KINDS},
            "orphans": neurons.orphans,
            "results": neurons.method["results"],
            "follows_the_paper": language[1] < language[0]
            and language[1] < language[2]
            and language[3] < language[2],
            "explained": found.explained,
            "by_chance": found.by_chance,
        }
        return self.result(records, facts, stats)

    @classmethod
    def draw(cls, result: Result) -> Figure:
        """Draw the three counts and the cut."""
        from ..plots import layer_profile

        facts = result.facts
        return layer_profile(
            {kind: result.column(kind) for kind in (SPECIFIC, RELATED, GENERAL)},
            title=cls.title,
            spans=[(first, last, part) for part, (first, last) in facts["split"].items()],
            note=caption(facts, "four"),
        )


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)
