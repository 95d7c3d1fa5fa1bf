"""Lines of text per label, as the analyses that run a model read them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ParameterError, TextError
from ..evaluation.metrics.scoring import TokenRow
from ..stats.texts import read_sources


def lines(texts: Any, limit: int | None) -> dict[str, list[str]]:
    """Return the first `limit` texts of each label; a prompt and its response are one text.

    Args:
        texts: What `collect` takes: a mapping of labels, or a folder.
        limit: How many per label; `None` reads all.
    """
    found: dict[str, list[str]] = {}
    for source in read_sources(texts):
        items = itertools.islice(source.read(), limit)
        found[source.label] = [each if isinstance(each, str) else "".join(each) for each in items]
    return found


def halves(
    found: Mapping[str, Sequence[str]], least: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return every second line of each label, and the others.

    Raises:
        TextError: If a label has fewer than `least` lines.
    """
    for label, each in found.items():
        if len(each) < least:
            raise TextError(
                f"Label {label!r} has {len(each)} texts; at least {least} are needed, because half "
                "of them are only learned from and the other half only measured."
            )
    return (
        {label: list(each[::2]) for label, each in found.items()},
        {label: list(each[1::2]) for label, each in found.items()},
    )


def rows(tokenizer: Any, texts: Sequence[str], max_length: int, skip: int) -> list[TokenRow]:
    """Return token rows of which the predictions after the first `skip` text tokens are read.

    A text that is shorter is left out.
    """
    if max_length < 2 or skip < 0:
        raise ParameterError(
            f"max_length={max_length}, skip={skip}: expected at least 2 and at least 0."
        )
    bos = tokenizer.bos_token_id
    head = () if bos is None else (int(bos),)
    kept: list[TokenRow] = []
    for text in texts:
        ids = [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]
        ids = [*head, *ids][:max_length]
        start = len(head) + max(skip, 1 - len(head))
        if len(ids) > start:
            kept.append(TokenRow(tuple(ids), start))
    return kept
