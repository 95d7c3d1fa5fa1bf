"""What good text of a language is like: what the unsteered model writes in it.

A base model continues natural beginnings; a chat model answers prompts in the language.

Natural text itself is no measure for the likelihood of generated text. Sampled text is likelier
than what people write, and a text that steering has half broken is as unlikely as theirs: on Gemma
3 270M, word salad was between the 10 % and 90 % quantiles of natural French more than good texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import TextError
from ...languages import unspaced
from ..continuations import decode
from ..metrics.fluency import NGRAM, distinct_ngrams
from ..metrics.scoring import TokenRow
from ..readers import beginning, thinned

#: Reference texts per language.
REFERENCES = 24
#: A range of fewer would be drawn by chance.
LEAST = 3
#: The two kinds of reference texts.
OWN_ANSWERS, CONTINUATIONS = "own answers", "continuations"
#: Length of n-grams where a character is about a word.
_UNSPACED_NGRAM = 2


def beginnings(label: str, texts: Sequence[str]) -> list[str]:
    """Return up to `REFERENCES` beginnings of texts: eight words, or the first half of a short one.

    Raises:
        TextError: If there are too few.
    """
    found = [beginning(text, label) or text[: (len(text) + 1) // 2].strip() for text in texts]
    some = different(found)
    if len(some) < LEAST:
        raise TextError(
            f"There is too little natural text for {label!r}: {len(some)} different beginnings of "
            f"texts; expected at least {LEAST}, better {REFERENCES}. Give more texts of this "
            "label, or none (then its texts are compared with the unsteered ones only)."
        )
    return some


def different(texts: Sequence[str]) -> list[str]:
    """Return up to `REFERENCES` different texts that are not empty."""
    return thinned([each for each in dict.fromkeys(texts) if each.strip()], REFERENCES)


def scored_row(tokenizer: Any, ids: Sequence[int]) -> TokenRow | None:
    """Return the row that scores a text given nothing; `None` if nothing of it can be scored."""
    bos = tokenizer.bos_token_id
    row = (*([] if bos is None else [int(bos)]), *ids)
    return TokenRow(row, 1) if len(row) > 1 else None


def nats_per_character(tokenizer: Any, ids: Sequence[int], logprob: float) -> float | None:
    """Return the loss per character of the decoded text; `None` of a text without any."""
    characters = len(decode(tokenizer, [ids])[0])
    return -logprob / characters if characters else None


def middle(losses: Sequence[float]) -> tuple[float, float]:
    """Return the 10 % and 90 % quantiles."""
    low, high = np.quantile(np.asarray(losses, dtype=np.float64), [0.1, 0.9])
    return float(low), float(high)


def outside(loss: float | None, low: float, high: float) -> float:
    """Return how far a loss is from the range; a text without any is as far as the range's end."""
    return high if loss is None else max(low - loss, loss - high, 0.0)


def ngram_of(label: str) -> int:
    """Return the length of the n-grams that are counted in texts of a language."""
    return _UNSPACED_NGRAM if unspaced(label) else NGRAM


def distinct(text: str, n: int) -> float:
    """Return the share of different n-grams; 0 of a text that is too short to have any."""
    return distinct_ngrams(text, n) or 0.0
