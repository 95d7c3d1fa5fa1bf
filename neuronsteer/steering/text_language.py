"""Tells what texts are written in from what a neuron set's neurons do in them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..errors import ParameterError
from .steerer import SetLike, Steerer, attach
from .token_text import Run, locate, pieces

#: Tokens on either side that say with one what it is written in.
_AROUND = 3


@dataclass(frozen=True)
class TextLanguage:
    """What a text is written in.

    Attributes:
        label: The label of the text as a whole; `None` if it has no token.
        likeness: How much the neurons look like each label's: a cosine, from -1 to 1.
        spans: Parts of the text in one language: `label`, `start` and `end` in characters,
            `token_start` and `token_end` in tokens.
    """

    label: str | None
    likeness: dict[str, float]
    spans: list[dict[str, Any]]


def identify(
    model: Any,
    tokenizer: Any,
    neurons: SetLike,
    texts: str | Iterable[str],
    *,
    max_length: int = 512,
) -> list[TextLanguage]:
    """Return what texts are written in, as a whole and part by part.

    Among the set's labels the one is told whose neurons' averages the text's are most like, so
    there is no "another language". One forward pass per text, in which nothing is steered.

    Args:
        model: A causal LM of transformers.
        tokenizer: Its tokenizer.
        neurons: A neuron set that carries the means of its labels, or its Hub id or folder.
        texts: One or several.
        max_length: Tokens that are read of each.

    Example:
        >>> found = ns.identify(model, tok, "gemma", "Hello. Wie geht es dir?")  # doctest: +SKIP
        >>> [(each["label"], each["start"]) for each in found[0].spans]
    """
    if max_length < 1:
        raise ParameterError(f"max_length={max_length}: at least one token has to be read.")
    given = [texts] if isinstance(texts, str) else list(texts)
    for text in given:
        if not isinstance(cast(object, text), str):
            raise ParameterError(f"identify() reads texts; found {type(text).__name__}.")
    with attach(model, neurons, tokenizer=tokenizer, private=True) as steer:
        return [_identified(steer, tokenizer, text, max_length) for text in given]


def _identified(steer: Steerer, tokenizer: Any, text: str, max_length: int) -> TextLanguage:
    ids: list[int] = tokenizer(text)["input_ids"][:max_length]
    texts = pieces(tokenizer, [], ids)
    # The first token holds outliers that say nothing of a language, and may be none of the text.
    first = 1 if len(ids) > 1 else 0
    if not ids or not text.strip():
        return TextLanguage(None, {}, [])
    labels, found = steer.likeness(torch.tensor([ids]))
    tokens = found[0, first:]
    whole = tokens.mean(0)
    near: list[int] = [
        int(tokens[max(0, at - _AROUND) : at + _AROUND + 1].mean(0).argmax())
        for at in range(len(tokens))
    ]
    starts = [at for at in range(len(near)) if at == 0 or near[at] != near[at - 1]]
    ends = [*starts[1:], len(near)]
    runs: list[Run] = [
        (first + start if start else 0, first + end, labels[near[start]])
        for start, end in zip(starts, ends, strict=True)
    ]
    return TextLanguage(
        labels[int(whole.argmax())],
        {label: float(value) for label, value in zip(labels, whole, strict=True)},
        locate(runs, texts, 0),
    )
