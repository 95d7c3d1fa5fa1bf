"""Language confusion: do replies stay in the language, line by line and word by word?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from ...languages import same, script, scripts, unspaced
from ..bootstrap import interval, mean
from . import METRICS, Metric, Score, aligned
from .langid import IdentifierLike, identify_languages

_WORD = re.compile(r"[^\W\d_]+")


@METRICS.register("language_confusion")
@dataclass(frozen=True)
class LanguageConfusion(Metric):
    """Share of replies without a line, or a word, in another language.

    `line_pass_rate`: replies in which every line that is long enough is identified as the
    language. `word_pass_rate`: of the replies that pass by line, those without a foreign word;
    defined for languages not written in Latin script, where a word of another script shows.
    `language_confusion` is the harmonic mean of the two (the line rate alone for Latin script).

    A Latin word counts as foreign if it has at least `least_letters` letters and is written in
    lower case, which spares names and acronyms; the paper looks words up in an English dictionary
    instead: pass it as `words`. Other scripts count in any form.

    Traps: identifiers guess on short lines, so lines below `least_words` words (characters times
    one half in scripts without spaces) are skipped; a reply without a line that is long enough is
    left out and counted as `unscored`, because an empty reply is not in the right language. Code
    and URLs in a reply look like confusion.

    Args:
        identifier: What identifies the language of lines.
        languages: Restrict the identifier to these.
        floor: Confidence below which a language counts as unclear; such a line fails.
        least_words: Shorter lines are skipped.
        least_letters: Shorter Latin words are skipped.
        words: Count just these Latin words, e.g. an English dictionary.
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "language_confusion"
    title: ClassVar[str] = "Language confusion"
    paper: ClassVar[str] = (
        "Marchisio et al. 2024, Understanding and Mitigating Language Confusion in LLMs"
    )
    primary: ClassVar[str] = "language_confusion"
    columns: ClassVar[Mapping[str, str]] = {"predictions": "string", "references": "string"}

    identifier: IdentifierLike = "lingua"
    languages: tuple[str, ...] | None = None
    floor: float = 0.0
    least_words: int = 5
    least_letters: int = 4
    words: frozenset[str] | None = None
    seed: int = 0

    def compute(self, predictions: Sequence[str], references: Sequence[str]) -> Score:
        """Return the score.

        Args:
            predictions: Replies, without their prompts.
            references: The language that each should be in.
        """
        n = aligned(self.name, predictions=predictions, references=references)
        lines: list[str] = []
        owner: list[int] = []
        for i, (reply, language) in enumerate(zip(predictions, references, strict=True)):
            scored = [line for line in reply.splitlines() if self._long(line, language)]
            lines += scored
            owner += [i] * len(scored)
        found, identified_by = identify_languages(
            lines, self.identifier, labels=self.languages, floor=self.floor
        )
        hits = [same(label, references[i]) for i, label in zip(owner, found, strict=True)]
        passed: dict[int, bool] = {}
        for i, hit in zip(owner, hits, strict=True):
            passed[i] = passed.get(i, True) and hit
        clean = {
            i: not self.foreign(predictions[i], references[i])
            for i, good in passed.items()
            if good and "LATIN" not in scripts(references[i])
        }
        by = {
            language: _rates(
                [good for i, good in passed.items() if references[i] == language],
                [good for i, good in clean.items() if references[i] == language],
            )
            for language in dict.fromkeys(references)
        }
        by_line, by_word = list(passed.values()), list(clean.values())
        drifted: dict[str, int] = {}
        for label, hit in zip(found, hits, strict=True):
            if not hit:
                drifted[label or "unknown"] = drifted.get(label or "unknown", 0) + 1
        return self.score(
            n,
            {
                **_rates(by_line, by_word),
                "lines": float(len(lines)),
                "wrong_lines": mean([not hit for hit in hits]),
                "unscored": (n - len(passed)) / n,
            },
            {
                "line_pass_rate": interval(by_line, seed=self.seed),
                "word_pass_rate": interval(by_word, seed=self.seed),
            },
            {"by_language": by, "drifted_to": drifted},
            identifier=identified_by,
        )

    def foreign(self, text: str, language: str) -> list[str]:
        """Return the words of a text that are not in the script of the language."""
        own = scripts(language)
        found: list[str] = []
        for word in _WORD.findall(text):
            for part in _runs(word):
                other = script(part[0])
                if other in own or other is None:
                    continue
                if other == "LATIN":
                    if self.words is not None:
                        wrong = part.casefold() in self.words
                    else:
                        wrong = part.islower() and len(part) >= self.least_letters
                    if not wrong:
                        continue
                found.append(part)
        return found

    def _long(self, line: str, language: str) -> bool:
        if unspaced(language):
            # Two characters make about a word. Spaced words count too: the line may have drifted.
            letters = sum(character.isalpha() for character in line)
            if letters >= 2 * self.least_words:
                return True
        return len(line.split()) >= self.least_words


def _rates(lines: Sequence[bool], words: Sequence[bool]) -> dict[str, float | None]:
    by_line, by_word = mean(lines), mean(words)
    if by_line is None or by_word is None:
        both = by_line
    else:
        both = 2 * by_line * by_word / (by_line + by_word) if by_line + by_word else 0.0
    return {"language_confusion": both, "line_pass_rate": by_line, "word_pass_rate": by_word}


def _runs(word: str) -> list[str]:
    """Cut a word where its script changes: without spaces, several stand together."""
    runs: list[str] = []
    for character in word:
        if runs and script(runs[-1][0]) == script(character):
            runs[-1] += character
        else:
            runs.append(character)
    return runs
