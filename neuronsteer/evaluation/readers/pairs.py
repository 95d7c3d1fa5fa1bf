"""Pairs of sentences, one the translation of the other, from rows as data sets have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ...languages import same


class Pair(NamedTuple):
    """A sentence and its translation."""

    source: str
    target: str


def translations(rows: Sequence[Any], source: str, target: str, corpus: str = "") -> list[Pair]:
    """Return the pairs of two languages in rows such as `{"en": …, "fr": …}`.

    A row that has the source language and a `text` is a pair, too: then the text is in the target
    language, as the file is.

    Args:
        rows: Rows of the target language.
        source: Language that is translated from.
        target: Language that is translated to.
        corpus: Only rows whose field `source`, the name of a collection, is this.
    """
    found: list[Pair] = []
    for row in rows:
        if not isinstance(row, dict) or (corpus and row.get("source") != corpus):
            continue
        # First of all `text`: a row's number is often called `id`, which is also Indonesian.
        left, right = _said(row, source), row.get("text") or _said(row, target)
        if isinstance(left, str) and isinstance(right, str) and left.strip() and right.strip():
            found.append(Pair(left.strip(), right.strip()))
    return found


def _said(row: dict[str, Any], language: str) -> Any:
    return next((text for key, text in row.items() if same(key, language)), None)
