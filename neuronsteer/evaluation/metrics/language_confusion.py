"""Language confusion: do replies stay in the language, line by line and word by word?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ...errors import ParameterError
from ...languages import canonical, same, script, scripts, unspaced
from ..bootstrap import interval, mean
from . import METRICS, Metric, Score, aligned, check_choice, confusion_benchmark
from .langid import IdentifierLike, identify_languages

_WORD = re.compile(r"[^\W\d_]+")
_PAPER = "paper"


@METRICS.register("language_confusion")
@dataclass(frozen=True)
class LanguageConfusion(Metric):
    """Share of replies without a line, or a word, in another language.

    `line_pass_rate`: replies in which every line that is long enough is identified as the
    language. `word_pass_rate`: of the replies that pass by line, those without a foreign word;
    defined for languages not written in Latin script, where a word of another script shows.
    `language_confusion` is the harmonic mean of the two (the line rate alone for Latin script).

    With the variant "scripts" a word of another script is foreign. A Latin word counts if it has at
    least `least_letters` letters and is written in lower case, which spares names and acronyms, or,
    where `words` are given, if it is one of them. Other scripts count in any form. Rates are
    shares of all replies.

    With the variant "paper" every rule is that of the Language Confusion Benchmark's own program,
    and with its identifier ("lid.176") and its `words` every number, too. A reply ends before a
    line that begins with "Q:", and loses its punctuation; Chinese and Japanese are split into
    words; a line counts from `least_words` words on, and passes from a confidence of 0.3 on. Only
    English `words` of `least_letters` letters, listed in lower case, are foreign, and only in
    Arabic, Hindi, Japanese, Korean, Russian and Chinese. The rates are means over languages of
    means over sources, each part as large as the others; `groups` in the details holds them all.

    Traps: identifiers guess on short lines, so lines below `least_words` words (characters times
    one half in scripts without spaces) are skipped; a reply without a line that is long enough is
    left out and counted as `unscored`, because an empty reply is not in the right language. Code
    and URLs in a reply look like confusion. The paper gives 100 % to a group of which nothing is
    scored, and to the words of one in which no reply passes by line.

    Args:
        identifier: What identifies the language of lines.
        languages: Restrict the identifier to these.
        floor: Confidence below which a language counts as unclear; such a line fails.
        least_words: Shorter lines are skipped.
        least_letters: Shorter Latin words are skipped.
        words: Count just these Latin words, e.g. an English dictionary; "paper" needs them.
        variant: "scripts" or "paper", see above.
        seed: Seed of the bootstrap.
    """

    name: ClassVar[str] = "language_confusion"
    title: ClassVar[str] = "Language confusion"
    paper: ClassVar[str] = (
        "Marchisio et al. 2024, Understanding and Mitigating Language Confusion in LLMs"
    )
    primary: ClassVar[str] = "language_confusion"
    columns: ClassVar[Mapping[str, str]] = {"predictions": "string", "references": "string"}
    optional: ClassVar[Mapping[str, str]] = {"sources": "string"}

    identifier: IdentifierLike = "lingua"
    languages: tuple[str, ...] | None = None
    floor: float = 0.0
    least_words: int = 5
    least_letters: int = 4
    words: frozenset[str] | None = None
    variant: str = "scripts"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an unknown variant, and the paper's without its list of words."""
        check_choice("variant", self.variant, ("scripts", _PAPER))
        if self.variant == _PAPER and not self._english():
            raise ParameterError(
                "The paper's variant of 'language_confusion' counts listed English words, and got "
                f"{len(self.words or ())} words, none of them in lower case with at least "
                f"{self.least_letters} letters. Give words=, such as the benchmark's file 'words'."
            )

    def parameters(self) -> dict[str, Any]:
        """Return the parameters by name; of the words, how many and which, not each of them."""
        found = super().parameters()
        if self.words is not None:
            text = "\n".join(sorted(self.words)).encode("utf-8", "surrogatepass")
            found["words"] = {
                "count": len(self.words),
                "sha256": hashlib.sha256(text).hexdigest(),
            }
        return found

    def compute(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        sources: Sequence[str] | None = None,
    ) -> Score:
        """Return the score.

        Args:
            predictions: Replies, without their prompts.
            references: The language that each should be in.
            sources: Which collection the prompt of each comes from.
        """
        n = aligned(self.name, predictions=predictions, references=references, sources=sources)
        paper = self.variant == _PAPER
        kept = [
            self._lines(reply, language)
            for reply, language in zip(predictions, references, strict=True)
        ]
        owner = [i for i, lines in enumerate(kept) for _ in lines]
        found, identified_by = identify_languages(
            [line for lines in kept for line, _ in lines],
            self.identifier,
            labels=self.languages,
            floor=max(self.floor, confusion_benchmark.FLOOR) if paper else self.floor,
            literal=paper,
        )
        hits = [
            label == canonical(references[i]) if paper else same(label, references[i])
            for i, label in zip(owner, found, strict=True)
        ]
        passed: dict[int, bool] = {}
        for i, hit in zip(owner, hits, strict=True):
            passed[i] = passed.get(i, True) and hit
        if paper:
            english = self._english()
            clean = {
                i: not any(word.strip() in english for _, words in kept[i] for word in words)
                for i, good in passed.items()
                if good and confusion_benchmark.has_word_rate(references[i])
            }
        else:
            clean = {
                i: not self.foreign(predictions[i], references[i])
                for i, good in passed.items()
                if good and "LATIN" not in scripts(references[i])
            }
        by_line, by_word = list(passed.values()), list(clean.values())
        intervals = {
            "line_pass_rate": interval(by_line, seed=self.seed),
            "word_pass_rate": interval(by_word, seed=self.seed),
        }
        details: dict[str, Any] = {}
        if paper:
            sources = sources or [""] * n
            groups = confusion_benchmark.groups(references, sources, passed, clean)
            by = {
                each["language"]: _rates(each["line_pass_rate"], each["word_pass_rate"])
                for each in groups
                if each["source"] == confusion_benchmark.ALL
            }
            whole = by.pop(confusion_benchmark.ALL)
            details["groups"] = groups
            if len(set(zip(sources, references, strict=True))) > 1:
                # What is resampled are replies; a mean of several groups is no mean of replies.
                intervals = {}
        else:
            whole = _rates(mean(by_line), mean(by_word))
            by = _by(references, passed, clean)
            if sources is not None:
                details["by_source"] = _by(sources, passed, clean)
        drifted: dict[str, int] = {}
        for label, hit in zip(found, hits, strict=True):
            if not hit:
                drifted[label or "unknown"] = drifted.get(label or "unknown", 0) + 1
        return self.score(
            n,
            {
                **whole,
                "lines": float(len(owner)),
                "wrong_lines": mean([not hit for hit in hits]),
                "unscored": (n - len(passed)) / n,
            },
            intervals,
            {"by_language": by, "drifted_to": drifted, **details},
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

    def _english(self) -> frozenset[str]:
        return confusion_benchmark.english(self.words or (), self.least_letters)

    def _lines(self, reply: str, language: str) -> list[tuple[str, list[str]]]:
        """Return the lines that are long enough, each with its words where they are looked up."""
        if self.variant == _PAPER:
            return confusion_benchmark.lines(reply, language, self.least_words)
        return [(line, []) for line in reply.splitlines() if self._long(line, language)]

    def _long(self, line: str, language: str) -> bool:
        if unspaced(language):
            # Two characters make about a word. Spaced words count too: the line may have drifted.
            letters = sum(character.isalpha() for character in line)
            if letters >= 2 * self.least_words:
                return True
        return len(line.split()) >= self.least_words


Rates = dict[str, float | None]


def _by(
    names: Sequence[str], passed: Mapping[int, bool], clean: Mapping[int, bool]
) -> dict[str, Rates]:
    """Return the rates of the replies of each name."""
    return {
        name: _rates(
            mean([good for i, good in passed.items() if names[i] == name]),
            mean([good for i, good in clean.items() if names[i] == name]),
        )
        for name in dict.fromkeys(names)
    }


def _rates(by_line: float | None, by_word: float | None) -> Rates:
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
