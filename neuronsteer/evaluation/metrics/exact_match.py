"""Exact match: the right number (MGSM), or the right words (XQuAD), in the right language."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...errors import ParameterError
from ...languages import same
from ..bootstrap import mean
from . import METRICS, Metric, Score, aligned, check_choice
from .answers import f1, numbers, tokens
from .langid import IdentifierLike, identify_languages

_KINDS = ("number", "span")
_TOLERANCE = 1e-6


@METRICS.register("exact_match")
@dataclass(frozen=True)
class ExactMatch(Metric):
    """Share of replies with the right answer, and with it in the right language.

    `kind="number"` (MGSM): the last number of the reply equals the reference, whatever digits and
    separators its language uses. `kind="span"` (XQuAD): exact match and F1 of the words after
    folding case and dropping punctuation and the language's articles; scripts without spaces are
    compared by character; the best of several references counts. `in_language` is the share of
    replies identified as their language, `exact_match_in_language` of those that are right as well.

    Traps: English normalisation drops the wrong words elsewhere and makes Chinese F1 all or
    nothing. `70.000` is seventy thousand in German and seventy in English: give `languages`; where
    a separator is ambiguous, the reading that is right counts. A
    steered model that answers the right number in the wrong language has not been steered. Cut
    the reply at the end of the answer first; the last number of a model that goes on to invent the
    next question is that question's.

    Args:
        kind: `number` or `span`.
        identifier: What identifies the language; `None` leaves it out.
        floor: Confidence below which a language counts as unclear.
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "exact_match"
    title: ClassVar[str] = "Exact match"
    paper: ClassVar[str] = (
        "Shi et al. 2022, Language Models are Multilingual Chain-of-Thought Reasoners; "
        "Artetxe et al. 2020, On the Cross-lingual Transferability of Monolingual Representations"
    )
    primary: ClassVar[str] = "exact_match"
    columns: ClassVar[Mapping[str, str]] = {"predictions": "string", "references": "strings"}
    optional: ClassVar[Mapping[str, str]] = {"languages": "string"}

    kind: str = "span"
    identifier: IdentifierLike | None = None
    floor: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist."""
        check_choice("kind", self.kind, _KINDS)

    def compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str | Sequence[str]],
        languages: Sequence[str] | None = None,
    ) -> Score:
        """Return the score.

        Args:
            predictions: Replies, without their prompts.
            references: The right answer of each, or several.
            languages: The language that each reply should be in; also decides how it is read.
        """
        n = aligned(self.name, predictions=predictions, references=references, languages=languages)
        if self.identifier is not None and languages is None:
            raise ParameterError(
                "Identifying the language of replies needs languages=[…], one each."
            )
        wanted: Sequence[str | None] = languages or [None] * n
        right: list[bool] = []
        overlap: list[float] = []
        for reply, given, language in zip(predictions, references, wanted, strict=True):
            several = [given] if isinstance(given, str) else list(given)
            if self.kind == "number":
                right.append(any(_same_number(reply, each, language) for each in several))
            else:
                said, meant = tokens(reply, language), [tokens(e, language) for e in several]
                right.append(any(said == each for each in meant))
                overlap.append(max((f1(said, each) for each in meant), default=0.0))
        values: dict[str, float | None | Sequence[float]] = {"exact_match": right}
        if self.kind == "span":
            values["f1"] = overlap
        identified_by = None
        if self.identifier is not None:
            found, identified_by = identify_languages(
                predictions, self.identifier, floor=self.floor
            )
            hits = [same(a, b) for a, b in zip(found, wanted, strict=True)]
            both = [a and b for a, b in zip(right, hits, strict=True)]
            values |= {"in_language": mean(hits), "exact_match_in_language": both}
        by = {
            language: mean([r for r, own in zip(right, wanted, strict=True) if own == language])
            for language in dict.fromkeys(languages or ())
        }
        return self.score(
            n, values, details={"by_language": by, "right": right}, identified_by=identified_by
        )


def _same_number(reply: str, reference: str, language: str | None) -> bool:
    # References are written by machines: "70000", "1,000", "0.5".
    wanted = numbers(reference, "en")
    if len(wanted) != 1:
        raise ParameterError(f"The reference {reference!r} is not one number; use kind='span'.")
    # MGSM's own German solutions write 5,600 for 5600: either reading of a separator may be meant.
    return any(
        bool(said) and math.isclose(said[-1], wanted[0], rel_tol=0, abs_tol=_TOLERANCE)
        for said in (numbers(reply, language), numbers(reply))
    )
