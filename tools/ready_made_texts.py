"""The texts that the ready-made sets are made of: twelve languages, genres mixed.

One genre per language would make a vector of the genre (Chinese pretraining text alone is half
statutes): a third of each language's tokens are everyday sentences of Tatoeba, whose content is
about the same in all languages, and the rest is spread evenly over the pretraining text.
"""

from __future__ import annotations

import csv
import json
import lzma
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path
from typing import Any

LANGUAGES = ("ar", "de", "en", "es", "fr", "it", "ja", "nl", "pl", "ru", "tr", "zh")
TOKENS = 30_000
#: Tatoeba's sentences are this share of the tokens.
_EVERYDAY = 1 / 3


def lines(file: Path) -> list[str]:
    """Return the lines of an `.xz` file that are not empty."""
    with lzma.open(file, "rt", encoding="utf-8") as opened:
        return [line.strip() for line in opened if line.strip()]


def texts_of(data: Path, language: str, tokenizer: Any, tokens: int = TOKENS) -> list[str]:
    """Return texts of a language, at least `tokens` tokens of them where there are so many."""
    everyday = _up_to(_everyday(data, language), tokenizer, round(tokens * _EVERYDAY))
    left = tokens - sum(count for _, count in everyday)
    written = lines(data / "pretrain" / f"{language}.txt.xz")
    # Ten tokens are less than any line has: thinned by this much they are enough, and spread.
    spread = written[:: max(1, len(written) * 10 // left)]
    rest = _up_to(spread, tokenizer, left)
    mixed = zip_longest((text for text, _ in everyday), (text for text, _ in rest))
    return [text for pair in mixed for text in pair if text is not None]


def _everyday(data: Path, language: str) -> list[str]:
    # English is the other side of every other language's pairs.
    file, side = (language, "text") if language != "en" else ("fr", "en")
    rows = map(json.loads, lines(data / "parallel" / f"{file}.jsonl.xz"))
    return [row[side] for row in rows if row["source"] == "tatoeba"]


def _up_to(texts: Iterable[str], tokenizer: Any, limit: int) -> list[tuple[str, int]]:
    found, total = [], 0
    for text in texts:
        if total >= limit:
            break
        count = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        found.append((text, count))
        total += count
    return found


#: Where questions of a language lie, below DATA; the languages that are in none have the XQuAD.
_QUESTIONS = {
    "ar": "eval/lcb/monolingual/aya/ar.csv",
    "en": "eval/lcb/monolingual/aya/en.csv",
    "es": "eval/lcb/monolingual/native/es.csv",
    "fr": "eval/lcb/monolingual/native/fr.csv",
    "ja": "eval/lcb/monolingual/native/ja.csv",
    "ru": "eval/lcb/monolingual/dolly/ru.csv",
    "tr": "eval/lcb/monolingual/aya/tr.csv",
    "zh": "eval/lcb/monolingual/aya/zh.csv",
}
#: A prompt of more characters is an article with a question about it.
_LONGEST = 220


def questions(data: Path, language: str, half: str) -> list[str]:
    """Return questions for a chat model; those for `development` and for `test` are disjoint."""
    if language in _QUESTIONS:
        with (data / _QUESTIONS[language]).open(encoding="utf-8", newline="") as opened:
            rows = [row["prompt"].strip() for row in csv.DictReader(opened)]
    else:
        file = data / "parallel" / "multiway_xquad_questions.jsonl.xz"
        rows = [row.get(language, "").strip() for row in map(json.loads, lines(file))]
        if not any(rows):  # Tatoeba has every language, and some of its sentences are questions
            rows = [text for text in _everyday(data, language) if text.endswith("?")]
        rows = rows[:: max(1, len(rows) // 128)]
    short = [text for text in dict.fromkeys(rows) if 0 < len(text) <= _LONGEST]
    return short[0::2] if half == "development" else short[1::2]
