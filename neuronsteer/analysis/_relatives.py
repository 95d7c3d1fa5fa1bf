"""Which languages are related, as far as a short list can honestly say.

Family and branch as in the standard handbooks: three steps (same branch, same family, neither) and
no distances, because a number for "how related" would be invented. A language that is not listed is
unknown, not unrelated. Contact, loanwords and script are other kinds of likeness; script is taken
from the texts' writing system, not from here.
"""

from __future__ import annotations

from ..languages import canonical, script, scripts

SAME_BRANCH, SAME_FAMILY, UNRELATED = RELATIONS = ("same branch", "same family", "unrelated")

# family/branch: codes. Japanese and Korean are families of their own here, whatever has been
# proposed; isolates stand alone.
_TREE = """
indo-european/germanic: en de nl af sv da no nb nn is fo lb fy yi
indo-european/romance: fr es it pt ro ca gl oc la
indo-european/slavic: ru uk be pl cs sk bg mk sr hr bs sl sh
indo-european/baltic: lt lv
indo-european/celtic: ga gd cy br gv kw
indo-european/indo-aryan: hi ur bn mr gu pa ne si or as sa sd
indo-european/iranian: fa ps ku tg os
indo-european/greek: el
indo-european/albanian: sq
indo-european/armenian: hy
uralic/finnic: fi et
uralic/ugric: hu
turkic/oghuz: tr az tk
turkic/kipchak: kk ky tt ba
turkic/karluk: uz ug
sino-tibetan/sinitic: zh yue
sino-tibetan/bodish: bo dz
sino-tibetan/burmish: my
japonic/japanese: ja
koreanic/korean: ko
afro-asiatic/semitic: ar he am ti mt
afro-asiatic/chadic: ha
afro-asiatic/cushitic: so om
austronesian/malayic: id ms
austronesian/javanese: jv
austronesian/philippine: tl
austronesian/oceanic: mi sm to haw
austronesian/malagasy: mg
austroasiatic/vietic: vi
austroasiatic/khmer: km
kra-dai/tai: th lo
dravidian/south: ta ml kn
dravidian/south-central: te
niger-congo/bantu: sw zu xh rw rn sn ln lg ny st tn
niger-congo/volta-niger: yo ig
niger-congo/senegambian: wo ff
kartvelian/georgian: ka
mongolic/mongolian: mn
quechuan/quechua: qu
tupian/guarani: gn
basque/basque: eu
"""
_PLACE: dict[str, tuple[str, str]] = {
    code: (family, f"{family}/{branch}")
    for line in _TREE.strip().splitlines()
    for place, codes in [line.split(": ")]
    for family, branch in [place.split("/")]
    for code in codes.split()
}
_WRITING = {
    "CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "KATAKANA-HIRAGANA": "Kana",
}  # fmt: skip


def relation(left: str, right: str) -> str | None:
    """Return how two languages are related, or `None` if one of them is not listed."""
    mine, theirs = _PLACE.get(canonical(left)), _PLACE.get(canonical(right))
    if mine is None or theirs is None:
        return None
    if mine[1] == theirs[1]:
        return SAME_BRANCH
    return SAME_FAMILY if mine[0] == theirs[0] else UNRELATED


def family(label: str) -> str | None:
    """Return `family/branch` of a language, or `None` if it is not listed."""
    place = _PLACE.get(canonical(label))
    return place[1] if place else None


def share_a_script(left: str, right: str) -> bool | None:
    """Return whether two languages have a script in common, or `None` if one is not listed."""
    if family(left) is None or family(right) is None:
        return None
    return bool(scripts(left) & scripts(right))


def writing(character: str) -> str | None:
    """Return the writing system of a letter, e.g. `Latin`, `Han`, `Kana`; `None` for no letter."""
    found = script(character)
    if found is None:
        return None
    return _WRITING.get(found, found.title())
