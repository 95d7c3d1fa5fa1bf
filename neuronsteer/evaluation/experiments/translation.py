"""Translation: steered to a language that the prompt does not name, is it what is translated to?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError, TextError
from ...languages import same
from ..bootstrap import mean
from ..metrics import Score, metric
from ..metrics.fluency import degenerate, distinct_ngrams
from ..readers import thinned
from ..readers.pairs import Pair, translations
from ..reports import blocks
from . import EXPERIMENTS, Case, Experiment, Finding, Observation
from ._model_under_test import NONE, ModelUnderTest
from ._scored_texts import ScoredText, pick

#: The prompt of the paper, which names no language.
_TASK = "Translate an English sentence into a target language."
_ASK, _ANSWER = "English", "Target language"
_OTHERS, _TARGET = "others", "target"


@EXPERIMENTS.register("translation")
@dataclass(frozen=True)
class Translate(Experiment):
    """Sentences to be translated, steered to every label; examples show what is to be done.

    Examples are of the other labels, each of another one, so that the prompt leaves the language
    open: what decides is the steering. With `shown="target"` they are in the target language, and
    the question is whether steering helps or harms. A sentence is never among its own examples.

    Args:
        items: Sentences per language.
        tokens: New tokens per translation; it ends with its line.
        examples: Translated sentences before the one that is to be translated.
        shown: The language of the examples: "others" or "target".
        source: Language that is translated from.
        corpus: Only rows whose field `source` is this.
    """

    name: ClassVar[str] = "translation"
    title: ClassVar[str] = "Translation"
    question: ClassVar[str] = (
        "Steered to a language that the prompt does not name, is it what is translated to?"
    )
    definition: ClassVar[str] = (
        "chrF of the translations, by sacrebleu: of all sentences of a language together, then the "
        "mean over languages. Greedy decoding, the first line. Beside it BLEU, whose tokenizer "
        "follows the language, and the share of translations that the identifier takes for the "
        "target language. The interval treats the sentences as drawn and the languages as given."
    )
    paper: ClassVar[str] = "Kojima et al. 2024, Multilingual Ability (arXiv:2404.02431)"
    primary: ClassVar[str] = "chrf"
    units: ClassVar[Mapping[str, str]] = {"chrf": "of 100", "bleu": "of 100"}
    reads: ClassVar[tuple[str, ...]] = ("pairs",)

    tokens: int = 40
    examples: int = 2
    shown: str = _OTHERS
    source: str = "en"
    corpus: str = ""

    def __post_init__(self) -> None:
        """Refuse what is not a choice."""
        super().__post_init__()
        if self.shown not in (_OTHERS, _TARGET) or self.examples < 0:
            raise ParameterError(
                f"translation got shown={self.shown!r}, examples={self.examples}; expected "
                f"{_OTHERS!r} or {_TARGET!r}, and no number below 0."
            )

    def check(self, tested: ModelUnderTest) -> None:
        """Raise if there is nothing to translate, or nothing to score it with."""
        for target in self._targets(tested):
            metric("translation", target=target, samples=0).compute(["a b"], ["a b"])

    def cases(self, tested: ModelUnderTest) -> list[Case]:
        """Return the target languages."""
        return [(target,) for target in self._targets(tested)]

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Translate a few sentences into one language."""
        target = case[0]
        asked = thinned(self._pairs(tested, target)[0::2], self.count(tested))
        made = tested.generate(
            [self._prompt(tested, target, pair, k) for k, pair in enumerate(asked)],
            [None if tested.treatment.name == NONE else target] * len(asked),
            self.tokens,
            key=(self.name, target),
            greedy=True,
        )
        first = [_line(text) for text in made]
        return {
            "items": [
                {
                    "prompt": pair.source,
                    "reference": pair.target,
                    "text": text,
                    "target": target,
                    "identified": label,
                    "degenerate": degenerate(text),
                    "distinct": distinct_ngrams(text),
                }
                for pair, text, label in zip(asked, first, tested.identify(first), strict=True)
            ]
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return quality and language, over all targets and for each."""
        by = {case[0]: seen["items"] for case, seen in found.items()}
        every = [ScoredText(item) for some in by.values() for item in some]
        quality = {
            target: metric("translation", target=target, seed=tested.settings.seed).compute(
                [item["text"] for item in some], [item["reference"] for item in some]
            )
            for target, some in by.items()
        }
        shares = {
            target: mean([same(item["identified"], target) for item in some])
            for target, some in by.items()
        }
        values, intervals = _averaged(list(quality.values()))
        return self.finding(
            tested,
            len(every),
            {
                **values,
                "language": [each.hit for each in every],
                "copied": [
                    item["text"].casefold() == item["prompt"].casefold()
                    for some in by.values()
                    for item in some
                ],
                "degeneration": [each.bad for each in every],
            },
            dict(quality),
            blocks.table(
                "By language",
                ["language", "chrF", "BLEU", "tokenizer", "in the language"],
                [
                    [
                        target,
                        f"{score['chrf']:.1f}",
                        f"{score['bleu']:.1f}",
                        str(score.settings["tokenizer"]),
                        f"{shares[target]:.0%}",
                    ]
                    for target, score in quality.items()
                ],
            ),
            blocks.samples(
                "Translations", pick([i for some in by.values() for i in some], by=("target",))
            ),
            intervals=intervals,
        )

    def _pairs(self, tested: ModelUnderTest, target: str) -> list[Pair]:
        rows = tested.data.get("pairs").items.get(target, ())
        return tested.once(
            (self.name, "pairs", target, self.source, self.corpus),
            lambda: translations(rows, self.source, target, self.corpus),
        )

    def _targets(self, tested: ModelUnderTest) -> list[str]:
        labels = [label for label in tested.labels if not same(label, self.source)]
        found = [label for label in labels if self._pairs(tested, label)]
        if not found:
            raise TextError(
                f"Translation from {self.source!r} found no pair of sentences in the data 'pairs' "
                f"for {', '.join(labels) or 'any label'}. Rows are such as "
                f'{{"{self.source}": "…", "text": "…"}} in a file per language, or '
                f'{{"{self.source}": "…", "fr": "…"}}.'
            )
        return found

    def _prompt(self, tested: ModelUnderTest, target: str, pair: Pair, k: int) -> str:
        parts = [_TASK]
        for shown in self._examples(tested, target, pair, k):
            parts.append(f"{_ASK}: {shown.source}\n{_ANSWER}: {shown.target}")
        return "\n\n".join([*parts, f"{_ASK}: {pair.source}\n{_ANSWER}:"])

    def _examples(self, tested: ModelUnderTest, target: str, pair: Pair, k: int) -> list[Pair]:
        """Return the examples of the k-th sentence, from the half that is never asked for."""
        others = [label for label in self._targets(tested) if label != target]
        languages = [target] if self.shown == _TARGET else others
        found: list[Pair] = []
        for i in range(self.examples if languages else 0):
            some = self._pairs(tested, languages[(k + i) % len(languages)])[1::2]
            some = [each for each in some if each.source != pair.source and each not in found]
            found += some[(k + i) % len(some) :][:1] if some else []
        return found


def _line(text: str) -> str:
    """Return the first line: what follows is the model's own next sentence."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _averaged(
    scores: Sequence[Score],
) -> tuple[dict[str, float | None], dict[str, tuple[float, float] | None]]:
    """Return means over languages, with intervals as of independent numbers."""
    values: dict[str, float | None] = {}
    intervals: dict[str, tuple[float, float] | None] = {}
    for name in ("chrf", "bleu"):
        known = [(value, s.intervals.get(name)) for s in scores if (value := s[name]) is not None]
        middle = mean([value for value, _ in known])
        values[name], intervals[name] = middle, None
        bounds = [(value, found) for value, found in known if found is not None]
        if middle is not None and len(bounds) == len(known):
            below = math.hypot(*(value - low for value, (low, _) in bounds)) / len(known)
            above = math.hypot(*(high - value for value, (_, high) in bounds)) / len(known)
            intervals[name] = (middle - below, middle + above)
    return values, intervals
