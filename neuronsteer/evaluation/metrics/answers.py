"""Answers in free text: the number in it, or the words of it, as each language writes them."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from ...languages import canonical

# Where the comma is the decimal sign and the point separates thousands.
_DECIMAL_COMMA = (
    "de es fr it pt nl pl ru uk tr id vi ro el sv da no nn fi cs sk sl hr hu bg lt lv et ca"
)
# A group of three digits after a separator; spaces of all widths and the Swiss apostrophe, too.
_NUMBER = re.compile(r"[-−]?\d+(?:[.,'’٫٬،\u0020\u00a0\u2009\u202f]?\d+)*")
_SPACES = " \u00a0\u2009\u202f'’"

_ARTICLES = {
    "en": r"\b(?:a|an|the)\b",
    "es": r"\b(?:un|una|unos|unas|el|la|los|las)\b",
    "de": r"\b(?:ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b",
    "fr": r"\b(?:un|une|des|le|la|les)\b|\b[ld]['’]",
    "it": r"\b(?:un|uno|una|il|lo|la|i|gli|le)\b|\bl['’]",
    "pt": r"\b(?:um|uma|uns|umas|o|a|os|as)\b",
    "nl": r"\b(?:een|de|het)\b",
    "vi": r"\b(?:của|là|cái|chiếc|những)\b",
    "ar": r"\bال",
}
# No spaces between words: every character is a token, as MLQA does for Chinese.
_CHARACTERS = re.compile(
    "([\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff])"
)


def numbers(text: str, language: str | None = None) -> list[float]:
    """Return the numbers in a text, in order.

    Args:
        text: Any text; digits of every script are read.
        language: Decides what `70.000` and `1,5` mean. Without it a separator before exactly three
            digits separates thousands.
    """
    plain = "".join(_digit(character) for character in unicodedata.normalize("NFKC", text))
    found: list[float] = []
    for match in _NUMBER.finditer(plain):
        # A hyphen between words or numbers ("2-3", "x-5") is not a sign.
        written = match.group()
        if written[0] in "-−" and match.start() and plain[match.start() - 1].isalnum():
            written = written[1:]
        found += _values(written.replace("−", "-"), language)
    return found


def _digit(character: str) -> str:
    value = unicodedata.decimal(character, None)
    return character if value is None else str(value)


def _values(written: str, language: str | None) -> list[float]:
    """Return the number, or the numbers if spaces separate no thousands."""
    parts = re.split(f"[{_SPACES}]", written)
    grouped = len(parts[0].lstrip("-")) <= 3 and all(
        re.fullmatch(r"\d{3}(?:[.,٫]\d+)?", part) for part in parts[1:]
    )
    if len(parts) > 1 and not grouped:
        return [_value(part, language) for part in parts]
    return [_value("".join(parts), language)]


def _value(written: str, language: str | None) -> float:
    written = written.replace("٫", ".").replace("٬", "").replace("،", ",")
    comma, point = written.rfind(","), written.rfind(".")
    if comma >= 0 and point >= 0:
        decimal = "," if comma > point else "."
    elif comma < 0 and point < 0:
        decimal = ""
    else:
        mark = "," if comma >= 0 else "."
        thousands = re.fullmatch(rf"-?[1-9]\d{{0,2}}(?:\{mark}\d{{3}})+", written) is not None
        if language is None:
            own = False
        else:
            own = mark == ("," if canonical(language) in _DECIMAL_COMMA.split() else ".")
        repeated = written.count(mark) > 1
        decimal = "" if repeated or (thousands and not own) else mark
    for mark in ",.":
        if mark != decimal:
            written = written.replace(mark, "")
    return float(written.replace(",", "."))


def tokens(text: str, language: str | None = None) -> list[str]:
    """Return an answer's words: folded, without punctuation and the language's articles.

    Characters of scripts without spaces are tokens of their own.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    article = _ARTICLES.get(canonical(language)) if language else None
    if article:
        # Before the punctuation: "l'eau" loses its article together with the apostrophe.
        folded = re.sub(article, " ", folded)
    bare = "".join(" " if _is_mark(c) else c for c in folded)
    return _CHARACTERS.sub(r" \1 ", bare).split()


def _is_mark(character: str) -> bool:
    return unicodedata.category(character)[0] in "PS"


def f1(prediction: list[str], reference: list[str]) -> float:
    """Return the F1 of two answers' words, counted with repetition."""
    if not prediction or not reference:
        return float(prediction == reference)
    common = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * common / (len(prediction) + len(reference))
