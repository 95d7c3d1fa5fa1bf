"""Whether a text still tells which prompt it answers: its own one must make it likeliest."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

from .metrics.scoring import Likelihood, TokenRow

T = TypeVar("T")

#: Prompts among which a text's own one is looked for.
CANDIDATES = 10


def other_candidates(prompt: str, others: Sequence[T], seed: int) -> list[T]:
    """Return those of the other prompts among which this one is looked for.

    They should be in its language: a prompt in another one would be told at once.
    """
    rng = random.Random(f"{seed} {prompt}")
    return rng.sample(others, min(CANDIDATES - 1, len(others)))


def prompts_found(
    texts: Sequence[tuple[Sequence[Sequence[int]], Sequence[int]]],
    score: Callable[[list[TokenRow]], Sequence[Likelihood]],
) -> list[bool | None]:
    """Return whether each text is likelier after its own prompt than after any other one.

    Args:
        texts: Per text the tokens of the prompts, its own one first, and its own tokens.
        score: Returns likelihoods under the unsteered model, for all rows in order.

    Returns:
        One per text; `None` where there is no other prompt.
    """
    rows = [
        TokenRow((*prompt, *ids), len(prompt))
        for prompts, ids in texts
        if len(prompts) > 1 and ids
        for prompt in prompts
    ]
    scored = iter(score(rows))
    found: list[bool | None] = []
    for prompts, ids in texts:
        if len(prompts) < 2:
            found.append(None)
        elif not ids:
            found.append(False)
        else:
            own, *rest = [next(scored).logprob for _ in prompts]
            found.append(own > max(rest))
    return found
