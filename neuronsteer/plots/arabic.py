"""Joined Arabic letters in display order, for a matplotlib that does not shape text itself.

From version 3.11 matplotlib shapes text with libraqm and nothing here is used. Before, it draws one
glyph per character from left to right, so that a text has to be given as the presentation forms of
Unicode in visual order. Which forms exist is read from the Unicode data of Python.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_KINDS = ("<isolated>", "<final>", "<initial>", "<medial>")
_LAM, _ALEFS = "\u0644", "\u0622\u0623\u0625\u0627"
_BRACKETS = "()[]{}<>«»"
_PAIRS = str.maketrans(_BRACKETS, ")(][}{><»«")


@lru_cache(maxsize=1)
def _forms() -> dict[str, dict[str, str]]:
    """Return letter (or lam with alef) -> kind -> presentation form."""
    found: dict[str, dict[str, str]] = {}
    for code in (*range(0xFB50, 0xFDFC), *range(0xFE70, 0xFEFD)):
        kind, _, letters = unicodedata.decomposition(chr(code)).partition(" ")
        if kind in _KINDS:
            text = "".join(chr(int(each, 16)) for each in letters.split())
            if len(text) == 1 or (text[0] == _LAM and text[1] in _ALEFS and len(text) == 2):
                found.setdefault(text, {})[kind] = chr(code)
    return found


def shaped(text: str) -> str:
    """Return the text with every Arabic letter in the form that its neighbours ask for."""
    forms = _forms()
    units: list[str] = []
    for character in text:
        if units and units[-1] == _LAM and character in _ALEFS:
            units[-1] += character
        else:
            units.append(character)
    found: list[str] = []
    for position, unit in enumerate(units):
        kinds = forms.get(unit)
        if kinds is None:
            found.append(unit)
            continue
        before = _neighbour(units, position, -1)
        after = _neighbour(units, position, 1)
        # A letter joins backwards if it has a final form, forwards if it has an initial one.
        back = "<final>" in kinds and "<initial>" in forms.get(before, {})
        ahead = "<initial>" in kinds and "<final>" in forms.get(after, {})
        kind = _KINDS[(1 if back else 0) + (2 if ahead else 0)]
        found.append(kinds.get(kind, unit))
    return "".join(found)


def displayed(text: str) -> str:
    """Return the text shaped and in visual order, runs of the other direction kept as they are.

    Enough for names and titles: one level of embedding, numbers inside right-to-left text kept.
    """
    if not any(right_to_left(character) for character in text):
        return text
    joined: list[tuple[bool, str]] = []
    base, runs = _runs(shaped(text))
    for direction, part in runs:
        if joined and joined[-1][0] == direction:
            joined[-1] = (direction, joined[-1][1] + part)
        else:
            joined.append((direction, part))
    drawn = [part[::-1].translate(_PAIRS) if rtl else part for rtl, part in joined]
    return "".join(reversed(drawn) if base else drawn)


def right_to_left(character: str) -> bool:
    """Return whether a character is written from right to left."""
    return unicodedata.bidirectional(character) in ("R", "AL")


def _runs(text: str) -> tuple[bool, list[tuple[bool, str]]]:
    """Return the direction of the text, and its words and signs with theirs.

    The text goes as its first letter does. A bracket goes as the text, so that both of a pair look
    alike; any other sign as both its neighbours, or else as the text.
    """
    parts = re.findall(r"\s+|[()\[\]{}<>«»]|[^\w\s]|\w+", text)
    found = [_direction(part) for part in parts]
    base = next(rtl for rtl in found if rtl is not None)
    found = [base if part in _BRACKETS else rtl for part, rtl in zip(parts, found, strict=True)]
    runs: list[tuple[bool, str]] = []
    for position, (part, rtl) in enumerate(zip(parts, found, strict=True)):
        if rtl is None:
            before = next((r for r in reversed(found[:position]) if r is not None), base)
            after = next((r for r in found[position + 1 :] if r is not None), base)
            rtl = before if before == after else base
        runs.append((rtl, part))
    return base, runs


def _direction(part: str) -> bool | None:
    """Return whether a word goes from right to left; `None` for signs."""
    kinds = {unicodedata.bidirectional(character) for character in part}
    if kinds & {"R", "AL"}:
        return True
    return False if kinds & {"L", "EN", "AN"} else None


def _neighbour(units: list[str], position: int, step: int) -> str:
    position += step
    # Vowel signs sit on a letter and do not part it from the next one.
    while 0 <= position < len(units) and unicodedata.combining(units[position][0]):
        position += step
    return units[position] if 0 <= position < len(units) else ""
