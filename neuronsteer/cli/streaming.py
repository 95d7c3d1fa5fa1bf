"""Printing text that is steered, so that one sees which label made which part."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from ..steering.schedule_text import target_label
from ..steering.token_text import Detokenizer, Run
from . import console


class Painter:
    """Writes pieces of text in the colour of their label.

    Where colours do not reach the reader, the label stands in front of its text: `⟦fr⟧`.
    """

    def __init__(self, out: Console, labels: Sequence[str]) -> None:
        self._out = out
        self._colours = console.colours(labels)
        self._marks = not console.coloured(out)
        self._last: str | None = None

    def prompt(self, text: str) -> None:
        """Write the prompt."""
        self._write(text, "dim")

    def piece(self, text: str, label: str | None) -> None:
        """Write the text of one token or span."""
        if not text:
            return
        if label != self._last and self._marks:
            self._write(f"⟦{'-' if label is None else target_label(label)}⟧", None)
        self._last = label
        self._write(text, self.colour(label))

    def colour(self, label: str | None) -> str:
        """Return the colour of a label."""
        return "default" if label is None else self._colours.get(target_label(label), "default")

    def legend(self, labels: Sequence[str]) -> str:
        """Return the key to the colours, empty where labels are written out."""
        if self._marks:
            return ""
        return "  ".join(f"[{self._colours[label]}]■[/] {label}" for label in labels)

    def end(self) -> None:
        """Finish the line."""
        self._write("\n", None)

    def _write(self, text: str, style: str | None) -> None:
        # Wrapping is left to the terminal: pieces are parts of words.
        self._out.print(text, end="", style=style, markup=False, highlight=False, soft_wrap=True)
        sys.stdout.flush()


class Streamer:
    """What `generate(streamer=…)` calls with the prompt, then with every new token.

    Args:
        painter: Where the text goes.
        tokenizer: The model's tokenizer.
        runs: Returns which label was active at which generated tokens so far.
    """

    def __init__(self, painter: Painter, tokenizer: Any, runs: Callable[[], Sequence[Run]]) -> None:
        self._painter = painter
        self._tokenizer = tokenizer
        self._runs = runs
        self._text: Detokenizer | None = None
        self._count = 0

    def put(self, value: Any) -> None:
        """Take token ids: the whole prompt the first time, new ones afterwards."""
        ids: list[int] = value.flatten().tolist()
        if self._text is None:
            self._text = Detokenizer(self._tokenizer, ids)
            return
        for token in ids:
            self._painter.piece(self._text.push(token), self._label())
            self._count += 1

    def end(self) -> None:
        """Write what was held back."""
        if self._text is not None:
            self._count = max(self._count - 1, 0)
            self._painter.piece(self._text.flush(), self._label())
        self._painter.end()

    def _label(self) -> str | None:
        runs = reversed(self._runs())
        return next((label for start, end, label in runs if start <= self._count < end), None)
