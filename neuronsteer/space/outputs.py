"""From generated tokens to what a page shows of them: text, spans, and what a listener hears."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..steering.token_text import Detokenizer, Run, locate

if TYPE_CHECKING:
    from ..demo.judge import Judge

#: Tokens that the identifier hears at once; shorter rests join their neighbour.
_CELL = 10
_REST = 4
#: Letters below which nobody can tell a language.
_LETTERS = 6


@dataclasses.dataclass(eq=False)
class Lane:
    """One row of the batch: the steered text, or one of its controls.

    Attributes:
        name: `"steered"`, `"unsteered"` or `"random"`.
        prompt: The prompt's text.
        pieces: The text of every generated token so far.
        ended: Whether the model ended the text.
    """

    name: str
    prompt: str
    tokenizer: Any
    prompt_ids: Sequence[int]
    judge: Judge | None
    ends: frozenset[int]
    pieces: list[str] = dataclasses.field(default_factory=list[str])
    ended: bool = False

    def __post_init__(self) -> None:
        self._text = Detokenizer(self.tokenizer, self.prompt_ids)
        self._heard: dict[str, str | None] = {}

    def push(self, token: int) -> None:
        """Take the next token; what comes after the end is padding."""
        if self.ended:
            return
        if token in self.ends:
            self.ended = True
            return
        self.pieces.append(self._text.push(token))

    def flush(self) -> None:
        """Take what was held back for an unfinished character."""
        rest = self._text.flush() if self.pieces else ""
        if rest:
            self.pieces[-1] += rest

    def snapshot(self, runs: Sequence[Run], *, own: bool) -> dict[str, Any]:
        """Return the lane as a JSON-able dictionary.

        Args:
            runs: Which label was asked for at which generated tokens (of the steered lane).
            own: Whether they were asked of this lane, too.
        """
        size = len(self.pieces)
        asked = [(start, min(end, size), label) for start, end, label in runs if start < size]
        text = self.prompt + "".join(self.pieces)
        shown: list[Run] = asked if own else [(0, size, None)] * bool(size)
        spans = locate(shown, self.pieces, len(self.prompt))
        for span in spans:
            span["heard"] = self._hear(text[span["start"] : span["end"]])
        cells = [
            {
                "start": start,
                "end": end,
                "asked": label,
                "heard": self._hear("".join(self.pieces[start:end])),
            }
            for start, end, label in _cells(asked)
        ]
        return {
            "name": self.name,
            "text": text,
            "spans": spans,
            "cells": cells,
            "tokens": size,
            "ended": self.ended,
        }

    def _hear(self, text: str) -> str | None:
        """Return the label that the identifier gives a text, or `None`."""
        if self.judge is None or sum(map(str.isalpha, text)) < _LETTERS:
            return None
        if text not in self._heard:
            self._heard[text] = self.judge(text)
        return self._heard[text]


def _cells(asked: Sequence[Run]) -> list[Run]:
    """Cut runs into cells of about `_CELL` tokens that do not cross a switch."""
    cells: list[Run] = []
    for start, end, label in asked:
        at = start
        while at < end:
            stop = end if end - at < _CELL + _REST else at + _CELL
            cells.append((at, stop, label))
            at = stop
    return cells


def scores(lanes: Sequence[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return per lane how many cells are in the language asked of the steered lane.

    Cells where nothing was asked, or nothing could be heard, do not count.
    """
    found: dict[str, dict[str, int]] = {}
    for lane in lanes:
        known = [cell for cell in lane["cells"] if cell["asked"] and cell["heard"]]
        right = sum(cell["asked"] == cell["heard"] for cell in known)
        found[lane["name"]] = {"right": right, "of": len(known)}
    return found
