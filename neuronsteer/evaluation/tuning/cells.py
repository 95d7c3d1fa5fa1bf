"""What was measured at one strength, one number for it, and which of several is the best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

#: Below this share of texts in the target language a strength never wins over one above it.
FLOOR = 0.5
#: A strength of which so many texts are in the language, and that does not break them, does what it
#: is for: it wins over one that does not, whose texts may read better for being half steered.
WORKS, BROKEN = 0.9, 0.5
#: Share of the reference texts whose likelihood lies in the range that is called natural.
NATURAL = 0.8


def score(
    success: float,
    distinct: float | None = None,
    natural: float | None = None,
    relevance: float | None = None,
) -> float:
    """Return the product of success and what is left of fluency and relevance, from 0 to 1.

    Every factor is at most 1, so that no factor makes up for another one. What was not measured
    (`None`) counts as 1.

    Args:
        success: Share of texts in the target language.
        distinct: Distinct character n-grams relative to reference texts.
        natural: Share of texts as likely as the middle 80 % of the reference texts, and no more
            repetitive than nine in ten of them; 0.8 is about what these themselves have.
        relevance: Retrieval accuracy relative to the unsteered texts.
    """
    shares = (distinct, None if natural is None else natural / NATURAL, relevance)
    product = success
    for share in shares:
        product *= 1.0 if share is None else min(1.0, share)
    return product


@dataclasses.dataclass(frozen=True)
class Cell:
    """One strength of one label: means over its texts.

    Attributes:
        label: What was steered to.
        strength: How much of the set's own operation.
        share: Share of all units that the label was given; `None` is the whole set.
        texts: How many continuations were made.
        success: Share of them in the target language.
        stayed: Share of them in the language of the prompt.
        distinct: Distinct character n-grams, relative to the reference texts of the language, or
            without these to the unsteered texts of the same prompts.
        natural: Share of them as likely under the unsteered model as the reference texts, and as
            free of repetition.
        away: How far they are from that range on average, in nats per character; 0 is inside.
        relevance: Retrieval accuracy relative to the unsteered texts of the same prompts.
        identified: How often which language was identified.
        examples: A few of the texts.
        candidate: Name of the set, where several were tried.
        intervals: 95 % intervals of success, natural and relevance; of cells that won only.
    """

    label: str
    strength: float
    share: float | None
    texts: int
    success: float
    stayed: float
    distinct: float
    natural: float | None = None
    away: float | None = None
    relevance: float | None = None
    identified: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    examples: tuple[str, ...] = ()
    candidate: str = ""
    intervals: dict[str, tuple[float, float]] = dataclasses.field(
        default_factory=dict[str, tuple[float, float]]
    )

    @property
    def score(self) -> float:
        """What `score` makes of the numbers."""
        return score(self.success, self.distinct, self.natural, self.relevance)

    @property
    def fluency(self) -> float:
        """The score without success and relevance."""
        return score(1.0, self.distinct, self.natural)

    @property
    def depth(self) -> int:
        """How many of the two expensive numbers were measured."""
        return (self.natural is not None) + (self.relevance is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-able."""
        found = {**dataclasses.asdict(self), "examples": list(self.examples)}
        return {**found, "score": self.score}


def rank(cell: Cell) -> tuple[bool, bool, float, float, float]:
    """Return what cells are ordered by, larger is better.

    First whether nine in ten texts are in the language and whole, then whether half of them are in
    the language, then the score. Of equal scores (say, of zero) the one whose texts are in the
    language, do not repeat themselves and are not far from natural text; then the weaker one, which
    changes less.
    """
    return (
        cell.success >= WORKS and cell.distinct >= BROKEN,
        cell.success >= FLOOR,
        round(cell.score, 9),
        round(score(cell.success, cell.distinct) * math.exp(-(cell.away or 0.0)), 9),
        -cell.strength,
    )


def best(cells: Sequence[Cell]) -> Cell | None:
    """Return the best of one label's cells, compared on what several of them were measured on.

    A factor that only one of them has would only be held against it.
    """
    for depth in sorted({cell.depth for cell in cells}, reverse=True):
        pool = [cell for cell in cells if cell.depth >= depth]
        if len(pool) > 1:
            return max((_reduced(cell, depth) for cell in pool), key=lambda pair: rank(pair[0]))[1]
    return max(cells, key=rank, default=None)


def steady(cells: Sequence[Cell]) -> Cell | None:
    """Return the cell in the middle of those that the texts cannot tell from the best one.

    On ten texts several strengths in a row are about equally good, and the best of them is so by
    chance; at the edge it may be too weak for other texts, or too strong. Those that are closer to
    the best than the standard error of the difference count as equally good; of an even number the
    stronger one is taken, for a switch in the middle of a text needs more than its beginning.
    """
    first = best(cells)
    if first is None:
        return None
    near: list[Cell] = []
    for cell in cells:
        if (cell.candidate, cell.share) != (first.candidate, first.share):
            continue
        spread = first.score * (1 - first.score) * (1 / cell.texts + 1 / first.texts)
        close = first.score - cell.score <= math.sqrt(spread)
        if close and cell.depth >= first.depth and rank(cell)[:2] == rank(first)[:2]:
            near.append(cell)
    return sorted(near, key=lambda cell: cell.strength)[len(near) // 2]


def average(cells: Sequence[Cell], labels: int) -> tuple[float, float]:
    """Return what one set is worth for so many labels, larger is better.

    First the mean of the scores, where one below `FLOOR`, or of a label without a cell, counts as
    0; then the mean of the scores as they are.
    """
    reached = math.fsum(cell.score for cell in cells if cell.success >= FLOOR)
    return round(reached / labels, 9), round(math.fsum(c.score for c in cells) / labels, 9)


def best_together(choices: Sequence[Sequence[Cell]], labels: int) -> int:
    """Return which of several choices of a cell per label is best on average.

    They are compared on what several of them were measured on, as in `best`; of equal ones the
    first wins.

    Args:
        choices: At least one, each with at most one cell per label.
        labels: How many labels there are.
    """
    depths = [min((cell.depth for cell in cells), default=0) for cells in choices]
    # The second deepest is the deepest that two of them have.
    depth = sorted(depths)[-2:][0]
    reduced = [[_reduced(cell, depth)[0] for cell in cells] for cells in choices]
    able = [i for i, each in enumerate(depths) if each >= depth]
    return max(able, key=lambda i: (average(reduced[i], labels), -i))


def _reduced(cell: Cell, depth: int) -> tuple[Cell, Cell]:
    """Return the cell as it was at `depth`, and itself."""
    seen: dict[str, Any] = {}
    if depth < cell.depth:
        # The likelihood of the text itself is measured first, then that of its prompt.
        seen["relevance"] = None
        if depth == 0:
            seen["natural"] = seen["away"] = None
    return dataclasses.replace(cell, **seen), cell
