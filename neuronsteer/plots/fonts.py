"""Which installed fonts have the letters of a label, and what is shown where none has them."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from .arabic import displayed

log = logging.getLogger(__name__)

# Families that look well beside DejaVu Sans, tried before any other font.
_PREFERRED = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC",
    "Noto Sans KR", "Source Han Sans", "Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo",
    "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Noto Sans Arabic", "Noto Naskh Arabic", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Thai", "Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans", "Arial Unicode MS",
)  # fmt: skip
#: Always there: it comes with matplotlib, and has Latin, Greek, Cyrillic, Hebrew and Arabic.
DEFAULT = "DejaVu Sans"

# Scripts whose letters change place or shape, and that only a shaping engine sets right.
_SHAPED = frozenset({
    "DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "ORIYA", "TAMIL", "TELUGU", "KANNADA",
    "MALAYALAM", "SINHALA", "KHMER", "MYANMAR", "TIBETAN", "THAI", "LAO", "SYRIAC", "THAANA",
})  # fmt: skip

# What speakers call their languages, where the letters may be missing from every font.
_OWN_NAMES = {
    "日本語": "ja", "中文": "zh", "汉语": "zh", "漢語": "zh", "普通话": "zh", "國語": "zh",
    "简体中文": "zh-Hans", "繁體中文": "zh-Hant", "粵語": "yue", "粤语": "yue", "한국어": "ko",
    "العربية": "ar", "عربي": "ar", "فارسی": "fa", "اردو": "ur", "پښتو": "ps", "کوردی": "ku",
    "עברית": "he", "हिन्दी": "hi", "हिंदी": "hi", "मराठी": "mr", "नेपाली": "ne", "বাংলা": "bn",
    "ਪੰਜਾਬੀ": "pa", "ગુજરાતી": "gu", "ଓଡ଼ିଆ": "or", "தமிழ்": "ta", "తెలుగు": "te", "ಕನ್ನಡ": "kn",
    "മലയാളം": "ml", "සිංහල": "si", "ไทย": "th", "ภาษาไทย": "th", "ລາວ": "lo", "བོད་སྐད་": "bo",
    "မြန်မာ": "my", "မြန်မာဘာသာ": "my", "ខ្មែរ": "km", "አማርኛ": "am", "ትግርኛ": "ti", "ქართული": "ka",
    "հայերեն": "hy", "ދިވެހި": "dv",
}  # fmt: skip


def shapes_text() -> bool:
    """Return whether this matplotlib joins Arabic and orders Indic letters by itself."""
    from matplotlib import ft2font

    return hasattr(ft2font, "__libraqm_version__")


def families(texts: Iterable[str]) -> list[str]:
    """Return font families, the default first, that together have the letters of the texts."""
    found = [DEFAULT]
    for text in texts:
        found += [name for name in _covering(frozenset(text)) if name not in found]
    return found


def shown(text: str) -> str:
    """Return what to draw for `text`: itself if a font has its letters, else a code for it.

    A language's own name becomes its code, other letters their transcription by Unicode name, and
    those without one their code point.
    """
    if all(_drawable(character) for character in text):
        return text if shapes_text() else displayed(text)
    words = re.split(r"(\s+)", text)
    replaced = "".join(map(_word, words)) if len(words) > 1 else _word(text)
    log.warning("No installed font has all letters of %r; it is shown as %r.", text, replaced)
    return replaced


def _word(word: str) -> str:
    if all(_drawable(character) for character in word):
        return word if shapes_text() else displayed(word)
    name = _OWN_NAMES.get(unicodedata.normalize("NFC", word))
    return name or "".join(c if _drawable(c) else _written_out(c) for c in word).strip("-")


def _drawable(character: str) -> bool:
    if ord(character) < 0x250 or character.isspace():
        return True
    if not shapes_text() and unicodedata.name(character, "").split(" ")[0] in _SHAPED:
        return False
    return bool(_font_of(character))


def _written_out(character: str) -> str:
    name = unicodedata.name(character, "")
    for word in (" SYLLABLE ", " LETTER "):
        if word in name:
            return name.split(word)[1].split(" WITH ")[0].split(" ")[-1].lower()
    # Signs that only make sense on the letter before them.
    return "" if unicodedata.combining(character) else f"U+{ord(character):04X}-"


def _covering(characters: frozenset[str]) -> list[str]:
    found: list[str] = []
    for character in sorted(characters):
        name = None if ord(character) < 0x250 else _font_of(character)
        if name and name not in found:
            found.append(name)
    return found


@lru_cache(maxsize=4096)
def _font_of(character: str) -> str | None:
    """Return the first family that has a character: default, preferred, then any other."""
    if not character.isprintable():
        return None
    for name in _candidates():
        if ord(character) in _letters(name):
            return name
    return None


@lru_cache(maxsize=1)
def _candidates() -> tuple[str, ...]:
    installed = _regular()
    others = sorted(set(installed) - set(_PREFERRED) - {DEFAULT})
    # Emoji and "last resort" fonts have pictures of every letter, which nobody can read.
    readable = [name for name in others if not any(w in name for w in ("Emoji", "Resort", "Blank"))]
    return (DEFAULT, *(name for name in _PREFERRED if name in installed), *readable)


@lru_cache(maxsize=1)
def _regular() -> dict[str, str]:
    """Return family -> file of its upright face of normal weight."""
    from matplotlib import font_manager

    weights = font_manager.weight_dict

    def plain(entry: Any) -> tuple[bool, bool, int, str]:
        weight = weights.get(entry.weight, 400) if isinstance(entry.weight, str) else entry.weight
        return entry.style != "normal", entry.stretch != "normal", abs(weight - 400), entry.fname

    found: dict[str, str] = {}
    entries: list[Any] = font_manager.fontManager.ttflist
    for entry in sorted(entries, key=plain):
        found.setdefault(entry.name, entry.fname)
    return found


@lru_cache(maxsize=512)
def _letters(name: str) -> frozenset[int]:
    from matplotlib import font_manager

    try:
        return frozenset(font_manager.get_font(_regular()[name]).get_charmap())
    except (OSError, RuntimeError):  # listed in the cache, but gone or damaged
        return frozenset()


def clear_caches() -> None:
    """Look for installed fonts again, after one was added."""
    for cached in (_font_of, _candidates, _regular, _letters):
        cached.cache_clear()


def same_letters(given: str, drawn: str) -> bool:
    """Return whether what is drawn is the given text, only perhaps in presentation forms."""
    return drawn == given or drawn == displayed(given)
