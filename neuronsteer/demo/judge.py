"""Which language is this? The demo asks somebody else than the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import MissingExtraError, require

Judge = Callable[[str], "str | None"]


def judge(labels: Sequence[str]) -> Judge | None:
    """Return what tells the label of a text, or `None` if nobody here can.

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

    def by_letters(text: str) -> str | None:
        found = detector.detect_language_of(text)
        return None if found is None else names[found]

    return by_letters
