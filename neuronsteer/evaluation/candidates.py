"""Which languages an identifier chooses from, when it is asked about texts of some labels."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ParameterError
from ..languages import neighbours
from .metrics.langid import Identifier, IdentifierLike, identifier
from .readers import languages as built_in_languages


def identifier_among(
    spec: IdentifierLike, labels: Sequence[str], languages: Sequence[str] | str = "auto"
) -> Identifier:
    """Return an identifier that knows the labels and what they are easily taken for.

    Args:
        spec: See `identifier`.
        labels: Languages in question.
        languages: `auto` (the labels, languages that are easily taken for them, and those of the
            built-in sentences), `all`, or a list.
    """
    if languages == "all":
        return identifier(spec)
    if isinstance(languages, str) and languages != "auto":
        raise ParameterError(
            f"languages={languages!r}: expected 'auto', 'all', or a list of languages."
        )
    near = [other for label in labels for other in neighbours(label)]
    auto = [*labels, *near, *built_in_languages()]
    chosen = auto if isinstance(languages, str) else languages
    return identifier(spec, list(dict.fromkeys(chosen)))
