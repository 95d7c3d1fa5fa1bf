"""Multiple choice by log-likelihood: XCOPA, XWinograd, INCLUDE, XNLI, Belebele."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ..bootstrap import mean
from . import METRICS, Metric, Score, aligned
from .choices import Question
from .scoring import likelihoods


@METRICS.register("choice_accuracy")
@dataclass(frozen=True)
class ChoiceAccuracy(Metric):
    """Share of questions whose right option has the highest log-probability.

    `accuracy` compares the summed log-probabilities of the options' tokens; `accuracy_norm`
    divides them by the options' length in UTF-8 bytes first, so that a long option is not punished
    for its length. Where k options tie at the top and the right one is among them, 1/k is counted,
    so that a model that knows nothing scores `chance` whatever the order of the options.

    Traps: with two options, chance is 0.5, and 100 questions leave ±0.1. Taking the first of tied
    options rewards a set whose answers are mostly first. Padding must not be scored, on either
    side. Letters as options (Belebele, INCLUDE) measure whether a model knows the format, and
    small models do not.

    Args:
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "choice_accuracy"
    title: ClassVar[str] = "Multiple-choice accuracy"
    paper: ClassVar[str] = (
        "Ponti et al. 2020, XCOPA: A Multilingual Dataset for Causal Commonsense Reasoning"
    )
    primary: ClassVar[str] = "accuracy"
    columns: ClassVar[Mapping[str, str]] = {"predictions": "floats", "references": "int"}
    optional: ClassVar[Mapping[str, str]] = {"lengths": "floats"}

    seed: int = 0

    def compute(
        self,
        predictions: Sequence[Sequence[float]],
        references: Sequence[int],
        lengths: Sequence[Sequence[float]] | None = None,
    ) -> Score:
        """Return the score.

        Args:
            predictions: Log-probability of every option of each question.
            references: Position of the right option.
            lengths: Length of every option, for `accuracy_norm`.
        """
        n = aligned(self.name, predictions=predictions, references=references, lengths=lengths)
        plain: list[float] = []
        normed: list[float] = []
        chosen: list[int] = []
        for i, (options, right) in enumerate(zip(predictions, references, strict=True)):
            if not 0 <= right < len(options):
                raise ParameterError(
                    f"Question {i} has {len(options)} options and the right one is number "
                    f"{right}; positions count from 0."
                )
            if any(math.isnan(option) for option in options):
                raise ParameterError(f"Question {i} has an option whose log-probability is NaN.")
            plain.append(_credit(options, right))
            chosen.append(max(range(len(options)), key=options.__getitem__))
            if lengths is not None:
                if len(lengths[i]) != len(options) or min(lengths[i]) <= 0:
                    raise ParameterError(f"Question {i}: give one positive length per option.")
                per = [a / b for a, b in zip(options, lengths[i], strict=True)]
                normed.append(_credit(per, right))
        return self.score(
            n,
            {
                "accuracy": plain,
                "accuracy_norm": normed,
                "chance": mean([1 / len(options) for options in predictions]),
            },
            details={"chosen": chosen},
        )

    def measure(
        self,
        model: Any,
        tokenizer: Any,
        questions: Sequence[Question],
        *,
        batch_size: int = 8,
        padding: str = "right",
    ) -> Score:
        """Return the score of a model as it is steered now.

        Args:
            model: A causal LM.
            tokenizer: Its tokenizer.
            questions: See `choices`, which reads the public formats.
            batch_size: Rows per forward pass; it does not change the numbers.
            padding: Side of the padding; it does not change the numbers.
        """
        aligned(self.name, questions=questions)
        pairs = [pair for question in questions for pair in question.pairs]
        found = iter(likelihoods(model, tokenizer, pairs, batch_size=batch_size, padding=padding))
        scores = [[next(found).logprob for _ in question.pairs] for question in questions]
        lengths = [[float(len(c.encode())) for _, c in question.pairs] for question in questions]
        return self.compute(scores, [question.answer for question in questions], lengths)


def _credit(options: Sequence[float], right: int) -> float:
    best = max(options)
    return 0.0 if options[right] < best else 1 / sum(option == best for option in options)
