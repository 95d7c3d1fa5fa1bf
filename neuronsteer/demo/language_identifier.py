"""Telling the language of a text, by a program that is not the steered model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import MissingExtraError, require

#: Returns the label of a text's language, or `None` if it cannot be told.
LanguageIdentifier = Callable[[str], "str | None"]


def language_identifier(labels: Sequence[str]) -> LanguageIdentifier | None:
    """Return an identifier for `labels`, or `None` if it is not installed or knows too few of them.

    Args:
        labels: The labels to choose from, language codes.
    """
    try:
        lingua: Any = require("lingua", "langid", "Telling languages apart")
    except MissingExtraError:
        return None
    by_code = {language.iso_code_639_1.name.lower(): language for language in lingua.Language.all()}
    known = {label: by_code[code] for label in labels if (code := label[:2].lower()) in by_code}
    if len(known) < 2:
        return None
    names = {language: label for label, language in known.items()}
    detector = lingua.LanguageDetectorBuilder.from_languages(*known.values()).build()

    def identify(text: str) -> str | None:
        found = detector.detect_language_of(text)
        return None if found is None else names[found]

    return identify
