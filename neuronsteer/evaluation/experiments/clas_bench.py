"""CLaS-Bench: all ordered pairs of languages, scored by language and by relevance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np

from .. import retrieval
from ..bootstrap import interval, mean
from ..metrics.scoring import score_rows
from ..reports import blocks
from . import EXPERIMENTS, Case, Finding, Observation
from ._answer_language import check_requests, with_request
from ._judge import Judge, check_judge, name_of, ratings
from ._model_under_test import PROMPTED, PROMPTED_NATIVELY, ModelUnderTest
from ._scored_texts import ScoredText, pick
from .forcing import Forcing


@EXPERIMENTS.register("clas_bench")
@dataclass(frozen=True)
class ClasBench(Forcing):
    """Questions in every language, answered in every language, by steering and by asking for it.

    As published: greedy decoding, all ordered pairs of languages, a language with itself included,
    and two baselines without steering, which ask for the language in the prompt, in English and in
    the language itself. The benchmark's own questions are given as the data `prompts`, 70 in each
    language, with 1024 tokens for an answer.

    Args:
        items: Questions per language.
        tokens: New tokens per answer.
        judge: Rates answers from 0 to 2: a function of a list of prompts that returns a reply to
            each, or `(model, tokenizer)` of a chat model. Without one, relevance is the share of
            answers whose question can be told from them, as `tune` looks for it.
    """

    name: ClassVar[str] = "clas_bench"
    title: ClassVar[str] = "CLaS-Bench"
    question: ClassVar[str] = (
        "Steered to a language, is a question answered in it, and is that still an answer?"
    )
    definition: ClassVar[str] = (
        "Harmonic mean of two averages over the answers to the questions of every language, "
        "steered to every language. Forcing: the share that the identifier takes for the target "
        "language. Relevance: with a judge, its mean rating; without, the share of answers that "
        "the unsteered model finds likelier after their own question than after nine others in "
        "its language. Beside it, the same without pairs of a language with itself."
    )
    paper: ClassVar[str] = "Gurgurov et al. 2026, CLaS-Bench (arXiv:2601.08331)"
    primary: ClassVar[str] = "steering_score"
    baselines: ClassVar[tuple[str, ...]] = (PROMPTED, PROMPTED_NATIVELY)
    by_default: ClassVar[bool] = False

    items: int = 8
    tokens: int = 64
    judge: Judge | None = None

    def __post_init__(self) -> None:
        """Refuse what is no judge."""
        super().__post_init__()
        check_judge(self.judge)

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name, and the judge by its own."""
        return {**super().parameters(), "judge": name_of(self.judge)}

    def check(self, tested: ModelUnderTest) -> None:
        """Raise if the baselines cannot ask for one of the languages."""
        check_requests(tested.labels)

    def prompt(self, tested: ModelUnderTest, prompt: str, target: str | None) -> str:
        """Return a question, and for the baselines the request for a language after it."""
        if target is None or tested.treatment.name not in self.baselines:
            return prompt
        native = tested.treatment.name == PROMPTED_NATIVELY
        return with_request(prompt, target, native=native)

    def run(self, tested: ModelUnderTest, case: Case) -> dict[str, Any]:
        """Answer every question of a language in every target, and see whether it is relevant."""
        questions, items = self.texts(tested, case, greedy=True, keep_ids=True)
        asked = [questions[i % len(questions)] for i in range(len(items))]
        if self.judge is None:
            relevance = self._found(tested, case[0], asked, [item["ids"] for item in items])
        else:
            given = [(item["prompt"], item["text"]) for item in items]
            relevance = ratings(self.judge, given, tested.settings.seed)
        return {
            "items": [
                {name: value for name, value in item.items() if name != "ids"} | {"relevance": each}
                for item, each in zip(items, relevance, strict=True)
            ]
        }

    def score(self, tested: ModelUnderTest, found: Mapping[Case, Observation]) -> Finding:
        """Return both averages and their harmonic mean, over all pairs and per target."""
        items = self.items_by_target(tested, found)
        scored = [ScoredText(item) for item in items]
        across = [item for item in items if item["from"] != item["target"]]
        bounds = partial(_interval, seed=tested.settings.seed)
        by_target = {
            label: [item for item in items if item["target"] == label] for label in tested.labels
        }
        rows = list(dict.fromkeys(item["from"] for item in items))
        shown = (("Steering score", _score), ("Forcing", _forcing), ("Relevance", _relevance))
        return self.finding(
            tested,
            len(items),
            {
                "steering_score": _score(items),
                "forcing": [each.hit for each in scored],
                "relevance": _rated(items),
                "score_across_languages": _score(across),
                "degeneration": [each.bad for each in scored],
                "unrated": mean([item["relevance"] is None for item in items]),
            },
            {
                label: {"value": _score(some), "interval": bounds(some), "n": len(some)}
                for label, some in by_target.items()
            },
            *(
                blocks.matrix(
                    title,
                    rows,
                    tested.labels,
                    self.by_pair(items, rows, tested.labels, value),
                    row_name="question",
                    column_name="steered to",
                )
                for title, value in shown
            ),
            blocks.samples("Answers", pick(items, by=("target",))),
            intervals={"steering_score": bounds(items), "score_across_languages": bounds(across)},
        )

    def _found(
        self,
        tested: ModelUnderTest,
        language: str,
        asked: Sequence[str],
        answers: Sequence[Sequence[int]],
    ) -> list[float | None]:
        """Return whether the question is found again, for each answer."""
        there = list(dict.fromkeys(tested.data.get("prompts").items[language]))
        candidates: dict[str, list[list[int]]] = {}
        for question in dict.fromkeys(asked):
            others = [each for each in there if each != question]
            drawn = retrieval.other_candidates(question, others, tested.settings.seed)
            candidates[question] = tested.encode_all([question, *drawn], self.tokens)
        texts = [(candidates[q], ids) for q, ids in zip(asked, answers, strict=True)]
        found = retrieval.prompts_found(texts, partial(score_rows, tested.model))
        return [None if each is None else float(each) for each in found]


Items = Sequence[Mapping[str, Any]]


def _forcing(items: Items) -> float | None:
    return mean([ScoredText(item).hit for item in items])


def _rated(items: Items) -> list[float]:
    return [float(item["relevance"]) for item in items if item["relevance"] is not None]


def _relevance(items: Items) -> float | None:
    return mean(_rated(items))


def _score(items: Items) -> float | None:
    forcing, relevance = _forcing(items), _relevance(items)
    return None if forcing is None or relevance is None else _harmonic(forcing, relevance)


def _harmonic(a: float, b: float) -> float:
    return 2 * a * b / (a + b) if a > 0 and b > 0 else 0.0


def _interval(items: Items, *, seed: int) -> tuple[float, float] | None:
    if _score(items) is None:
        return None
    hits = np.array([ScoredText(item).hit for item in items], dtype=np.float64)
    known = np.array([item["relevance"] is not None for item in items])
    rating = np.array([item["relevance"] or 0.0 for item in items], dtype=np.float64)

    def drawn(rows: np.ndarray) -> float:
        rated = known[rows].sum()
        return _harmonic(float(hits[rows].mean()), float(rating[rows].sum() / max(rated, 1)))

    return interval(items, drawn, seed=seed)
