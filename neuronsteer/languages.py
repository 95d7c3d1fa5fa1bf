"""Language codes: which of two spellings of a language mean the same one, and its script."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from .errors import ParameterError, shown

# ISO 639-1 and 639-3. Lingua says `fr`, GlotLID `fra_Latn`, a neuron set perhaps `fr-CA`.
_PAIRS = """
aa aar ab abk ae ave af afr ak aka am amh an arg ar ara as asm av ava ay aym az aze ba bak be bel
bg bul bi bis bm bam bn ben bo bod br bre bs bos ca cat ce che ch cha co cos cr cre cs ces cu chu
cv chv cy cym da dan de deu dv div dz dzo ee ewe el ell en eng eo epo es spa et est eu eus fa fas
ff ful fi fin fj fij fo fao fr fra fy fry ga gle gd gla gl glg gn grn gu guj gv glv ha hau he heb
hi hin ho hmo hr hrv ht hat hu hun hy hye hz her ia ina id ind ie ile ig ibo ii iii ik ipk io ido
is isl it ita iu iku ja jpn jv jav ka kat kg kon ki kik kj kua kk kaz kl kal km khm kn kan ko kor
kr kau ks kas ku kur kv kom kw cor ky kir la lat lb ltz lg lug li lim ln lin lo lao lt lit lu lub
lv lav mg mlg mh mah mi mri mk mkd ml mal mn mon mr mar ms msa mt mlt my mya na nau nb nob nd nde
ne nep ng ndo nl nld nn nno no nor nr nbl nv nav ny nya oc oci oj oji om orm or ori os oss pa pan
pi pli pl pol ps pus pt por qu que rm roh rn run ro ron ru rus rw kin sa san sc srd sd snd se sme
sg sag si sin sk slk sl slv sm smo sn sna so som sq sqi sr srp ss ssw st sot su sun sv swe sw swa
ta tam te tel tg tgk th tha ti tir tk tuk tl tgl tn tsn to ton tr tur ts tso tt tat tw twi ty tah
ug uig uk ukr ur urd uz uzb ve ven vi vie vo vol wa wln wo wol xh xho yi yid yo yor za zha zh zho
zu zul
"""

# Identifiers name the individual language where a set has the macrolanguage, and older codes live
# on. `nb` is what `no` nearly always means; `nn` stays apart.
_ALIASES = {
    "arb": "ar", "arz": "ar", "cmn": "zh", "yue": "yue", "zsm": "ms", "nob": "no", "nb": "no",
    "swh": "sw", "lvs": "lv", "ekk": "et", "pes": "fa", "prs": "fa", "npi": "ne", "khk": "mn",
    "uzn": "uz", "azj": "az", "azb": "az", "ydd": "yi", "als": "sq", "plt": "mg", "gaz": "om",
    "quy": "qu", "quz": "qu", "ayr": "ay", "kmr": "ku", "ory": "or", "pbt": "ps", "fil": "tl",
    "iw": "he", "in": "id", "ji": "yi", "bod": "bo", "gug": "gn", "dik": "din", "twi": "ak",
    "tw": "ak", "fuv": "ff", "knc": "kr", "kas": "ks", "hbs": "sh",
}  # fmt: skip
_CODES = _PAIRS.split()
_THREE: dict[str, str] = dict(zip(_CODES[1::2], _CODES[::2], strict=True))

# Scripts by the first word of their characters' Unicode names.
_SCRIPTS = {
    "ARABIC": "ar fa ur ps sd ug ckb ku_Arab ks dv_Arab",
    "CYRILLIC": "ru uk bg be mk sr mn kk ky tg tt ba cv os ce ab cu av kv",
    "GREEK": "el", "HEBREW": "he yi", "ARMENIAN": "hy", "GEORGIAN": "ka", "THAANA": "dv",
    "DEVANAGARI": "hi mr ne sa bho mai", "BENGALI": "bn as", "GURMUKHI": "pa", "GUJARATI": "gu",
    "ORIYA": "or", "TAMIL": "ta", "TELUGU": "te", "KANNADA": "kn", "MALAYALAM": "ml",
    "SINHALA": "si", "THAI": "th", "LAO": "lo", "TIBETAN": "bo dz", "MYANMAR": "my",
    "KHMER": "km", "ETHIOPIC": "am ti", "HANGUL": "ko", "CJK": "zh yue ja ko",
    "HIRAGANA": "ja", "KATAKANA": "ja", "KATAKANA-HIRAGANA": "ja", "YI": "ii",
    "CANADIAN": "iu cr oj",
}  # fmt: skip
_KNOWN = {*_CODES, *_ALIASES.values(), *" ".join(_SCRIPTS.values()).split()}
# What a language may be written in, but hardly ever is today.
_RARE = {"ko": frozenset({"CJK"})}
# Letters of no script: mathematics, ordinals, phonetics, and marks that go on any letter.
_NEUTRAL = frozenset({
    "ALEF", "ANGSTROM", "BET", "BLACK-LETTER", "CARON", "COMBINING", "DALET", "DOUBLE-STRUCK",
    "EULER", "FEMININE", "GIMEL", "INFORMATION", "KELVIN", "MASCULINE", "MATHEMATICAL", "MICRO",
    "MODIFIER", "MUSICAL", "OHM", "PLANCK", "ROMAN", "SCRIPT", "SUPERSCRIPT", "TURNED", "UNKNOWN",
    "VARIATION",
})  # fmt: skip
# Names of characters that do not begin with their script.
_OTHER_NAMES = {
    "BOPOMOFO": "CJK", "IDEOGRAPHIC": "CJK", "VIETNAMESE": "CJK", "HENTAIGANA": "HIRAGANA",
    "MASU": "KATAKANA", "VERTICAL": "KATAKANA",
}  # fmt: skip
# Written without spaces between words: what counts words has to count characters here.
_UNSPACED = frozenset({"zh", "yue", "ja", "th", "lo", "km", "my", "bo", "dz"})

# Languages that a short text is easily taken for; both ways, and only what lingua knows.
_NEIGHBOURS = """
ru uk be bg|de nl af|fr ca|es pt ca|it ca|zh ja|id ms|cs sk|hr sr bs sl|da nb sv nn|fa ar ur|hi mr
pl cs|tr az|kk ky|et fi|lv lt|mk bg sr|ro it|nl af|pt ca
"""


def neighbours(label: str) -> tuple[str, ...]:
    """Return languages that a short text in this one is easily taken for."""
    code = canonical(label)
    groups = [line.split() for line in _NEIGHBOURS.replace("\n", "|").split("|")]
    found = [other for group in groups if code in map(canonical, group) for other in group]
    return tuple(other for other in dict.fromkeys(found) if canonical(other) != code)


@lru_cache(maxsize=4096)
def canonical(label: str) -> str:
    """Return the code that all spellings of a language share; other labels come back folded."""
    folded = label.strip().casefold()
    first = folded.replace("_", "-").split("-")[0]
    first = _ALIASES.get(first) or _THREE.get(first) or first
    first = _ALIASES.get(first, first)
    # A label such as "code-python" is not a language: do not shorten what is not a code.
    return first if len(first) <= 3 else folded


def same(label: str | None, other: str | None) -> bool:
    """Whether two labels name the same language; region and script do not count."""
    return label is not None and other is not None and canonical(label) == canonical(other)


def scripts(label: str) -> frozenset[str]:
    """Return the scripts of a language; Latin where nothing else is known."""
    code = canonical(label)
    found = frozenset(name for name, codes in _SCRIPTS.items() if code in codes.split())
    if any(part in label.casefold() for part in ("latn", "latin")):
        return frozenset({"LATIN"})
    return found or frozenset({"LATIN"})


def usual_scripts(label: str) -> frozenset[str]:
    """Return the scripts that text of a language is usually in: Korean, without Chinese ones."""
    return scripts(label) - _RARE.get(canonical(label), frozenset())


def is_known(label: str) -> bool:
    """Whether a label is the code of a language."""
    return canonical(label) in _KNOWN


def check_known(label: str) -> None:
    """Raise if a label is not the code of a language."""
    if not is_known(label):
        raise ParameterError(
            f"{shown(label)} is not the code of a language, so its script is unknown. Use an ISO "
            "639 code, for instance 'ko' or 'pt-BR'."
        )


def unspaced(label: str | None) -> bool:
    """Whether the language is written without spaces between words."""
    return label is not None and canonical(label) in _UNSPACED


@lru_cache(maxsize=65536)
def script(character: str) -> str | None:
    """Return the script of a letter, `None` for other characters."""
    if not character.isalpha():
        return None
    return unicodedata.name(character, "UNKNOWN").split(" ")[0].removeprefix("FULLWIDTH")


@lru_cache(maxsize=65536)
def script_of(character: str) -> str | None:
    """Return the script that a character belongs to; `None` if text of any script may have it.

    Unlike with `script`, vowel signs and other marks of a script count, and letters that are
    mathematics do not.
    """
    if unicodedata.category(character)[0] not in "LM":
        return None
    first = unicodedata.name(character, "UNKNOWN")
    first = first.removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ").split(" ")[0]
    first = _OTHER_NAMES.get(first, first)
    return None if first in _NEUTRAL else first
