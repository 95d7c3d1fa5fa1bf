"""Language forcing: did the text come out in the language that was asked for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...languages import canonical, same
from ..bootstrap import mean
from . import METRICS, Metric, Score, aligned, check_share
from .fluency import FLOOR, NGRAM, degenerate, distinct_ngrams
from .langid import IdentifierLike, identify_languages


@METRICS.register("language_forcing")
@dataclass(frozen=True)
class LanguageForcing(Metric):
    """Share of outputs whose identified language is the target, and which do not stutter.

    `success` is the share of texts that are identified as the target language with at least
    `floor` confidence; a text whose language is unclear is a failure. `degeneration` is the share
    that stutters (in some piece of 400 characters less than `distinct_floor` of the character
    6-grams differ), ends in a loop, or says nothing. `fluent_success` needs both and is the
    headline.

    Traps: steering too hard raises `success` while the text becomes gibberish (in released samples
    of one method, 57 % success at a distinct share of .06 to .15), so `success` is never reported
    alone. Give continuations without their prompts. Restricting the identifier to few languages
    makes it call everything one of them. Compare with the same number of random neurons.

    Args:
        identifier: `"lingua"`, a fastText or GlotLID model file, or a function.
        languages: Restrict the identifier to these; give all that an output could be in.
        floor: Confidence below which a language counts as unclear.
        distinct_floor: Below this share of different n-grams a text stutters.
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "language_forcing"
    title: ClassVar[str] = "Language forcing"
    paper: ClassVar[str] = (
        "Gurgurov et al. 2025, Language Arithmetics: Towards Systematic Language Neuron "
        "Identification and Manipulation"
    )
    primary: ClassVar[str] = "fluent_success"
    columns: ClassVar[Mapping[str, str]] = {"predictions": "string", "references": "string"}

    identifier: IdentifierLike = "lingua"
    languages: tuple[str, ...] | None = None
    floor: float = 0.0
    distinct_floor: float = FLOOR
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse floors outside [0, 1]."""
        check_share("floor", self.floor)
        check_share("distinct_floor", self.distinct_floor)

    def compute(self, predictions: Sequence[str], references: Sequence[str]) -> Score:
        """Return the score.

        Args:
            predictions: Generated texts, without their prompts.
            references: The target language of each.
        """
        n = aligned(self.name, predictions=predictions, references=references)
        found, identified_by = identify_languages(
            predictions, self.identifier, labels=self.languages, floor=self.floor
        )
        hits = [same(label, target) for label, target in zip(found, references, strict=True)]
        stutters = [degenerate(text, self.distinct_floor) for text in predictions]
        fluent = [hit and not bad for hit, bad in zip(hits, stutters, strict=True)]
        shares = [share for text in predictions if (share := distinct_ngrams(text)) is not None]
        confusion: dict[str, dict[str, int]] = {}
        for label, target in zip(found, references, strict=True):
            row = confusion.setdefault(target, {})
            name = "unknown" if label is None else _like(label, references)
            row[name] = row.get(name, 0) + 1
        return self.score(
            n,
            {
                "fluent_success": fluent,
                "success": hits,
                "distinct_ngrams": mean(shares),
                "degeneration": stutters,
                "unidentified": mean([label is None for label in found]),
            },
            details={
                "by_target": {
                    target: {
                        "n": sum(row.values()),
                        "success": mean(_where(hits, references, target)),
                        "fluent_success": mean(_where(fluent, references, target)),
                        "identified": row,
                    }
                    for target, row in confusion.items()
                }
            },
            identifier=identified_by,
            ngram=NGRAM,
        )


def _where(values: Sequence[bool], labels: Sequence[str], label: str) -> list[bool]:
    return [value for value, other in zip(values, labels, strict=True) if other == label]


def _like(label: str, targets: Sequence[str]) -> str:
    """Spell an identified language as the targets do."""
    for target in targets:
        if same(label, target):
            return target
    return canonical(label)
