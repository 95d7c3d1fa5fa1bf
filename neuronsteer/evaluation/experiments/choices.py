"""Multiple choice by log-likelihood, with languages amplified: XCOPA and its like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..bootstrap import mean
from ..metrics import metric
from ..metrics.choices import Question, question
from ..metrics.scoring import likelihoods
from . import EXPERIMENTS
from ._amplification import OFF, Amplification
from ._model_under_test import ModelUnderTest


@dataclass(frozen=True)
class Choices(Amplification):
    """Questions with options, of which the likeliest is taken.

    Args:
        items: Questions per language.
    """

    scored: ClassVar[str] = "accuracy"

    items: int = 50

    def score_questions(
        self, tested: ModelUnderTest, language: str, rows: Sequence[Any], states: Sequence[str]
    ) -> dict[str, list[float]]:
        """Return per state the credit of every question; ties share it."""
        asked = self._questions(rows, language)
        pairs = [pair for each in asked for pair in each.pairs]
        scorer: Any = metric("choice_accuracy")
        put = tested.switch()
        found: dict[str, list[float]] = {}
        for state in states:
            put(state if state != OFF else None)
            scores = iter(
                likelihoods(
                    tested.model, tested.tokenizer, pairs, batch_size=tested.settings.batch_size
                )
            )
            # One at a time: the metric returns the mean of what it is given.
            found[state] = [
                scorer.compute([[next(scores).logprob for _ in each.pairs]], [each.answer]).value
                for each in asked
            ]
        put(None)
        return found

    def chance(self, rows: Sequence[Any]) -> float | None:
        """Return the mean of one over the number of options."""
        return mean([1 / len(each.pairs) for each in self._questions(rows, "en")])

    def _questions(self, rows: Sequence[Any], language: str) -> list[Question]:
        return [question(row, self.reads[0], language) for row in rows]


@EXPERIMENTS.register("xcopa")
@dataclass(frozen=True)
class Xcopa(Choices):
    """XCOPA: which of two is the cause, or the effect?"""

    name: ClassVar[str] = "xcopa"
    title: ClassVar[str] = "XCOPA"
    reads: ClassVar[tuple[str, ...]] = ("xcopa",)


@EXPERIMENTS.register("xwinograd")
@dataclass(frozen=True)
class Xwinograd(Choices):
    """XWinograd: to whom does the pronoun refer?"""

    name: ClassVar[str] = "xwinograd"
    title: ClassVar[str] = "XWinograd"
    reads: ClassVar[tuple[str, ...]] = ("xwinograd",)


@EXPERIMENTS.register("xnli")
@dataclass(frozen=True)
class Xnli(Choices):
    """XNLI: does one sentence follow from the other?"""

    name: ClassVar[str] = "xnli"
    title: ClassVar[str] = "XNLI"
    reads: ClassVar[tuple[str, ...]] = ("xnli",)


@EXPERIMENTS.register("belebele")
@dataclass(frozen=True)
class Belebele(Choices):
    """Belebele: which of four answers does the passage give?"""

    name: ClassVar[str] = "belebele"
    title: ClassVar[str] = "Belebele"
    reads: ClassVar[tuple[str, ...]] = ("belebele",)


@EXPERIMENTS.register("include")
@dataclass(frozen=True)
class Include(Choices):
    """INCLUDE: regional exam questions with four answers."""

    name: ClassVar[str] = "include"
    title: ClassVar[str] = "INCLUDE"
    reads: ClassVar[tuple[str, ...]] = ("include",)
