"""The rules of the Language Confusion Benchmark, as its authors' program applies them.

The numbers of the paper are made of these details, so none of them is ours to improve: what ends a
reply, what a word is, what a group without replies counts, and in which order means are taken.
"""

from __future__ import annotations

import logging
import shlex
import string
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ...errors import require
from ...languages import canonical

#: What the program calls the source or the language of a mean over them.
ALL = "all"
#: Confidence below which its identifier says nothing.
FLOOR = 0.3
# The languages in whose texts an English word is surely foreign.
_WITH_WORD_RATE = frozenset({"ar", "hi", "ja", "ko", "ru", "zh"})
_CHARACTERS = str.maketrans(
    {**dict.fromkeys(string.punctuation, ""), "\N{EM DASH}": " ", "\N{ARABIC COMMA}": ""}
)
# Base models are prompted with questions and answers, and go on with the next question.
_NEXT_QUESTION = "\nQ:"
_RATES = ("line_pass_rate", "word_pass_rate")


def lines(reply: str, language: str, least_words: int) -> list[tuple[str, list[str]]]:
    """Return the lines of a reply that are long enough, each with its words."""
    text = reply.split(_NEXT_QUESTION)[0].strip().translate(_CHARACTERS)
    split = [(line, words(line, language)) for line in text.split("\n")]
    return [(line, found) for line, found in split if len(found) >= least_words]


def words(line: str, language: str) -> list[str]:
    """Return the words of a line.

    Raises:
        MissingExtraError: If the package is missing that tells the language's words apart.
    """
    code = canonical(language)
    if code == "zh":
        return list(_chinese().cut(line))
    if code == "ja":
        return _japanese().parse(line).split()
    return line.split()


def check_languages(languages: Collection[str]) -> None:
    """Raise unless the packages are there that tell the words of these languages apart."""
    for language in languages:
        words("", language)


def english(listed: Collection[str], least_letters: int) -> frozenset[str]:
    """Return the words of a list that are foreign in other languages: no names, none too short."""
    return frozenset(word for word in listed if word.islower() and len(word) >= least_letters)


def has_word_rate(language: str) -> bool:
    """Whether replies in this language are searched for English words."""
    return canonical(language) in _WITH_WORD_RATE


def groups(
    languages: Sequence[str],
    sources: Sequence[str],
    passed: Mapping[int, bool],
    clean: Mapping[int, bool],
) -> list[dict[str, Any]]:
    """Return the rates per source and language, then the means: sources, languages, everything.

    Args:
        languages: The language of each reply.
        sources: The source of each reply's prompt.
        passed: Of the replies that are scored, whether all lines are in the language.
        clean: Of those that pass, whether no word is foreign.
    """
    members: dict[tuple[str, str], list[int]] = {}
    for i, place in enumerate(zip(sources, languages, strict=True)):
        members.setdefault(place, []).append(i)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for place in sorted(members):
        scored = [i for i in members[place] if i in passed]
        good = [i for i in scored if passed[i]]
        foreign = sum(not clean[i] for i in good if i in clean)
        found[place] = {
            # Written as the program does it: another formula rounds some shares the other way.
            "line_pass_rate": 1 - (len(scored) - len(good)) / max(1, len(scored)),
            "word_pass_rate": (
                1 - foreign / max(1, len(good)) if has_word_rate(place[1]) else None
            ),
            "replies": len(members[place]),
            "scored": len(scored),
        }
    by_source = {
        (source, ALL): _mean([each for place, each in found.items() if place[0] == source])
        for source in dict.fromkeys(source for source, _ in found)
    }
    by_language = {
        (ALL, language): _mean([each for place, each in found.items() if place[1] == language])
        for language in dict.fromkeys(language for _, language in found)
    }
    whole = {(ALL, ALL): _mean(list(by_language.values()))}
    return [
        {"source": source, "language": language, **rates}
        for (source, language), rates in {**found, **by_source, **by_language, **whole}.items()
    ]


def _mean(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the mean of rates, each part as large as the others, and the sum of counts."""
    means: dict[str, Any] = {}
    for rate in _RATES:
        values = [part[rate] for part in parts if part[rate] is not None]
        means[rate] = sum(values) / len(values) if values else None
    return means | {count: sum(part[count] for part in parts) for count in ("replies", "scored")}


@lru_cache(maxsize=1)
def _chinese() -> Any:
    jieba: Any = require("jieba", "lcb", "Telling Chinese words apart")
    jieba.setLogLevel(logging.WARNING)  # it announces its dictionary on stderr
    jieba.initialize()
    return jieba


@lru_cache(maxsize=1)
def _japanese() -> Any:
    fugashi: Any = require("fugashi", "lcb", "Telling Japanese words apart")
    dictionary: Any = require("unidic_lite", "lcb", "Telling Japanese words apart")
    folder = Path(dictionary.DICDIR)
    # Named, because fugashi prefers a larger dictionary where there is one, which splits otherwise.
    place = f"-r {shlex.quote(str(folder / 'mecabrc'))} -d {shlex.quote(str(folder))}"
    return fugashi.Tagger(f"-O wakati -b 50000 {place}")
