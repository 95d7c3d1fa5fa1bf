"""How likely natural text of a language is, in pieces as long as the continuations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import TextError
from ..continuations import decode
from ..metrics.codes import unspaced
from ..metrics.scoring import TokenRow

#: Windows per language.
WINDOWS = 60
#: A range of fewer would be drawn by chance.
_LEAST = 5
#: How tokens begin that begin a word, in the two common kinds of tokenizers.
_WORD = ("▁", "Ġ")


def windows(
    tokenizer: Any, label: str, texts: Sequence[str], tokens: int, seed: int
) -> list[list[int]]:
    """Return up to `WINDOWS` pieces of `tokens` tokens each, beginning where a word does.

    Texts that are too short are joined with the next ones. If there are fewer texts than windows,
    several are taken from each, at other places.

    Raises:
        TextError: If there is too little text.
    """
    rng = random.Random(f"{seed} {label}")
    units = _units(tokenizer, label, texts, tokens)
    found: dict[tuple[int, ...], None] = {}
    for turn in range(WINDOWS):
        # All of the texts, not only the first ones.
        step = max(1, len(units) // WINDOWS)
        for ids in units[::step]:
            found.setdefault(tuple(_cut(tokenizer, label, ids, tokens, rng, turn)))
            if len(found) == WINDOWS:
                return [list(ids) for ids in found]
    if len(found) < _LEAST:
        raise TextError(
            f"There is too little natural text for {label!r}: {len(found)} different pieces of "
            f"{tokens} tokens; expected at least {_LEAST}. Give more texts of this label, fewer "
            "new tokens, or no texts (then nothing is compared with natural text)."
        )
    return [list(ids) for ids in found]


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


def _units(tokenizer: Any, label: str, texts: Sequence[str], tokens: int) -> list[list[int]]:
    """Return the token ids of texts, joined until they have `tokens` of them."""
    joint = "" if unspaced(label) else " "
    units: list[list[int]] = []
    waiting = ""
    for text in texts:
        waiting = waiting + joint + text.strip() if waiting else text.strip()
        ids = [int(i) for i in tokenizer(waiting, add_special_tokens=False)["input_ids"]]
        if len(ids) >= tokens:
            units.append(ids)
            waiting = ""
    return units


def _cut(
    tokenizer: Any, label: str, ids: list[int], tokens: int, rng: random.Random, turn: int
) -> list[int]:
    last = len(ids) - tokens
    starts = list(range(last + 1))
    if not unspaced(label):
        pieces = tokenizer.convert_ids_to_tokens(ids)
        words = [i for i in starts if i == 0 or str(pieces[i]).startswith(_WORD)]
        # Tokens of single bytes or characters say nothing about words.
        starts = words if len(words) > 1 or last < tokens else starts
    start = rng.choice(starts) if turn or len(starts) > 1 else starts[0]
    return ids[start : start + tokens]
