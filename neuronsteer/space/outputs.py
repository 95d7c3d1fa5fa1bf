"""From generated tokens to what the page shows: text, spans, and the language detected in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..steering.keeping.language_sensor import PullBack
from ..steering.keeping.vocabulary_gate import Refusal
from ..steering.token_text import Detokenizer, Run, locate

if TYPE_CHECKING:
    from ..demo.language_identifier import LanguageIdentifier

#: Tokens of a passage whose language is detected; a shorter rest joins the passage before it.
_PASSAGE = 10
_REST = 4
#: Texts with fewer letters have no detectable language.
_LETTERS = 6


@dataclasses.dataclass(eq=False)
class Output:
    """One row of the batch: the steered text, or one of its controls.

    Attributes:
        name: `"steered"`, `"unsteered"` or `"random"`.
        prompt: The prompt's text.
        identifier: Tells the language of a text, if one is installed.
        end_tokens: Token ids that end a text.
        pieces: The text of every generated token so far.
        ended: Whether the model ended the text.
    """

    name: str
    prompt: str
    tokenizer: Any
    prompt_ids: Sequence[int]
    identifier: LanguageIdentifier | None
    end_tokens: frozenset[int]
    pieces: list[str] = dataclasses.field(default_factory=list[str])
    ended: bool = False

    def __post_init__(self) -> None:
        self._text = Detokenizer(self.tokenizer, self.prompt_ids)
        self._detected: dict[str, str | None] = {}

    def push(self, token: int) -> None:
        """Add the next token; what comes after the end is padding."""
        if self.ended:
            return
        if token in self.end_tokens:
            self.ended = True
            return
        self.pieces.append(self._text.push(token))

    def flush(self) -> None:
        """Add text that was kept back because a character was incomplete."""
        rest = self._text.flush() if self.pieces else ""
        if rest:
            self.pieces[-1] += rest

    def snapshot(self, runs: Sequence[Run], *, own: bool) -> dict[str, Any]:
        """Return the output as a JSON-able dictionary.

        Args:
            runs: Which label was requested at which generated tokens of the steered output.
            own: Whether this output was steered by them.
        """
        size = len(self.pieces)
        requested = [(start, min(end, size), label) for start, end, label in runs if start < size]
        text = self.prompt + "".join(self.pieces)
        shown: list[Run] = requested if own else [(0, size, None)] * bool(size)
        spans = locate(shown, self.pieces, len(self.prompt))
        for span in spans:
            span["detected"] = self._detect(text[span["start"] : span["end"]])
        passages = [
            {
                "start": start,
                "end": end,
                "requested": label,
                "detected": self._detect("".join(self.pieces[start:end])),
            }
            for start, end, label in _passages(requested)
        ]
        return {
            "name": self.name,
            "text": text,
            "spans": spans,
            "passages": passages,
            "tokens": size,
            "ended": self.ended,
        }

    def interventions(self, kept: Sequence[Refusal | PullBack]) -> list[dict[str, Any]]:
        """Return what was done to keep the language, with where in the text that is."""
        size, found = len(self.pieces), list[dict[str, Any]]()
        for each in kept:
            refused = isinstance(each, Refusal)
            tokens = 1 if refused else each.tokens
            end = min(each.token + tokens, size)
            # A letter of several tokens is the text of the last of them.
            while each.token < end < size and not any(self.pieces[each.token : end]):
                end += 1
            if each.token >= end:
                continue
            (place,) = locate([(each.token, end, None)], self.pieces, len(self.prompt))
            found.append(
                {
                    "kind": "refused" if refused else "pulled back",
                    "token": each.token,
                    "tokens": tokens,
                    "start": place["start"],
                    "end": place["end"],
                    "text": each.text if refused else None,
                    "probability": each.probability if refused else None,
                    "instead": each.instead if refused else None,
                    "left": None if refused else each.left,
                }
            )
        return found

    def _detect(self, text: str) -> str | None:
        """Return the label that the identifier gives a text, or `None`."""
        if self.identifier is None or sum(map(str.isalpha, text)) < _LETTERS:
            return None
        if text not in self._detected:
            self._detected[text] = self.identifier(text)
        return self._detected[text]


def _passages(requested: Sequence[Run]) -> list[Run]:
    """Cut runs into passages of about `_PASSAGE` tokens that do not cross a switch."""
    passages: list[Run] = []
    for start, end, label in requested:
        at = start
        while at < end:
            stop = end if end - at < _PASSAGE + _REST else at + _PASSAGE
            passages.append((at, stop, label))
            at = stop
    return passages


def scores(outputs: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many passages of each output are in the language requested of the steered one.

    Passages without a requested or a detected language do not count.
    """
    found: dict[str, dict[str, int]] = {}
    for output in outputs:
        known = [each for each in output["passages"] if each["requested"] and each["detected"]]
        right = sum(each["requested"] == each["detected"] for each in known)
        found[output["name"]] = {"right": right, "of": len(known)}
    return found
