"""The public multiple-choice formats as questions: one function per format, row in, question out.

Prompts are those of lm-evaluation-harness, so that numbers compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...errors import ParameterError
from ...languages import canonical
from ...registry import Registry


@dataclass(frozen=True)
class Question:
    """Options to compare: what is scored, after what, and which is right.

    Attributes:
        pairs: `(prompt, continuation)` per option; the continuation is what is scored.
        answer: Position of the right option.
    """

    pairs: tuple[tuple[str, str], ...]
    answer: int


Format = Callable[[Mapping[str, Any], str], Question]
FORMATS: Registry[Format] = Registry("format")

# cause, effect
_XCOPA = {
    "en": ("because", "therefore"), "et": ("sest", "seetõttu"), "ht": ("poukisa", "donk sa"),
    "id": ("karena", "maka"), "it": ("perché", "quindi"), "qu": ("imataq", "chaymi"),
    "sw": ("kwa sababu", "kwa hiyo"), "ta": ("காரணமாக", "எனவே"), "th": ("เพราะ", "ดังนั้น"),
    "tr": ("çünkü", "bu yüzden"), "vi": ("bởi vì", "vì vậy"), "zh": ("因为", "所以"),
}  # fmt: skip
# right, yes, also, no
_XNLI = {
    "ar": ("صحيح", "نعم", "لذا", "رقم"), "bg": ("правилно", "да", "така", "не"),
    "de": ("richtig", "Ja", "Auch", "Nein"), "el": ("σωστός", "Ναί", "Έτσι", "όχι"),
    "en": ("right", "Yes", "Also", "No"), "es": ("correcto", "Sí", "Asi que", "No"),
    "fr": ("correct", "Oui", "Aussi", "Non"), "hi": ("सही", "हाँ", "इसलिए", "नहीं"),
    "ru": ("правильно", "Да", "Так", "Нет"), "sw": ("sahihi", "Ndiyo", "Hivyo", "Hapana"),
    "th": ("ถูกต้อง", "ใช่", "ดังนั้น", "ไม่"), "tr": ("doğru", "Evet", "Böylece", "Hayır"),
    "ur": ("صحیح", "جی ہاں", "اس لئے", "نہیں"), "vi": ("đúng", "Vâng", "Vì vậy", "Không"),
    "zh": ("正确", "是的", "所以", "不是的"),
}  # fmt: skip


@FORMATS.register("xcopa")
def xcopa(row: Mapping[str, Any], language: str) -> Question:
    """Read `premise, choice1, choice2, question (cause|effect), label`."""
    premise, asked, label = _take(row, "xcopa", "premise", "question", "label")
    words = _words(_XCOPA, language, "xcopa")
    if asked not in ("cause", "effect"):
        raise ParameterError(f"A row of xcopa asks for {asked!r}; expected 'cause' or 'effect'.")
    connector = words[0] if asked == "cause" else words[1]
    prompt = f"{premise.strip()[:-1]} {connector}"
    options = [choice.strip() for choice in _take(row, "xcopa", "choice1", "choice2")]
    pairs = [(prompt, f" {option[:1].lower()}{option[1:]}") for option in options]
    return _question(pairs, int(label), "xcopa")


@FORMATS.register("xwinograd")
def xwinograd(row: Mapping[str, Any], language: str) -> Question:
    """Read `sentence` with a gap `_`, `option1, option2, answer (1|2)`.

    The options fill the gap and what follows is scored: it is the same text for both.
    """
    del language
    sentence, answer = _take(row, "xwinograd", "sentence", "answer")
    before, gap, after = sentence.partition("_")
    if not gap or not after.strip():
        raise ParameterError(f"A row of xwinograd has no gap '_' with text after it: {sentence!r}.")
    options = _take(row, "xwinograd", "option1", "option2")
    return _question([(before + option, after) for option in options], int(answer) - 1, "xwinograd")


@FORMATS.register("xnli")
def xnli(row: Mapping[str, Any], language: str) -> Question:
    """Read `premise, hypothesis, label` (0 entailment, 1 neutral, 2 contradiction)."""
    premise, hypothesis, label = _take(row, "xnli", "premise", "hypothesis", "label")
    right, *answers = _words(_XNLI, language, "xnli")
    pairs = [("", f"{premise}, {right}? {answer}, {hypothesis}") for answer in answers]
    return _question(pairs, int(label), "xnli")


@FORMATS.register("belebele")
def belebele(row: Mapping[str, Any], language: str) -> Question:
    """Read `flores_passage, question, mc_answer1 … 4, correct_answer_num (1 … 4)`."""
    del language
    passage, question, right = _take(
        row, "belebele", "flores_passage", "question", "correct_answer_num"
    )
    options = _take(row, "belebele", *(f"mc_answer{k}" for k in range(1, 5)))
    listed = "\n".join(
        f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=True)
    )
    prompt = f"P: {passage}\nQ: {question.strip()}\n{listed}\nAnswer:"
    return _question([(prompt, f" {letter}") for letter in "ABCD"], int(right) - 1, "belebele")


@FORMATS.register("include")
def include(row: Mapping[str, Any], language: str) -> Question:
    """Read `question`, `option_a … option_d` or a list `choices`, `answer (0 … 3)`."""
    del language
    question, answer = _take(row, "include", "question", "answer")
    if "choices" in row:
        options = list(row["choices"])
    else:
        options = _take(row, "include", *(f"option_{letter}" for letter in "abcd"))
    letters = "ABCDEFGH"[: len(options)]
    listed = "\n".join(f"{letter}. {each}" for letter, each in zip(letters, options, strict=True))
    prompt = f"{question.strip()}\n{listed}\nAnswer:"
    return _question([(prompt, f" {letter}") for letter in letters], int(answer), "include")


def question(row: Mapping[str, Any], format: str, language: str) -> Question:
    """Return the question in a row of a public data set.

    Args:
        row: A row as the data set has it.
        format: `xcopa`, `xwinograd`, `xnli`, `belebele` or `include`.
        language: Language of the row; some prompts have words of their own.
    """
    return FORMATS.get(format)(row, language)


def _take(row: Mapping[str, Any], format: str, *names: str) -> list[Any]:
    missing = [name for name in names if row.get(name) is None]
    if missing:
        raise ParameterError(
            f"A row of {format} lacks {', '.join(missing)}; it has {', '.join(map(str, row))}."
        )
    return [row[name] for name in names]


def _words(table: Mapping[str, tuple[str, ...]], language: str, format: str) -> tuple[str, ...]:
    try:
        return table[canonical(language)]
    except KeyError:
        raise ParameterError(
            f"The prompt of {format} is not known in {language!r}; it is in {', '.join(table)}."
        ) from None


def _question(pairs: list[tuple[str, str]], answer: int, format: str) -> Question:
    if not 0 <= answer < len(pairs):
        raise ParameterError(f"A row of {format} has no option number {answer} (from 0).")
    return Question(tuple(pairs), answer)
