"""Where a text stands after each of its tokens: in a thought, in code, in an address, in a name.

The state after a token follows from the state before and the token alone, so a text that is cut
back (rejected drafts) or goes on from another row (beams) has the states that it had.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .token_scripts import TokenScripts

#: Of a reasoning model's text: what is looked at, and what begins and ends its thoughts.
ANSWER, THINKING, ALL = "answer", "thinking", "all"
THOUGHT_MARKS = ("<think>", "</think>")
_FENCE = "```"
#: Addresses, paths and names of code: nothing of them is a word of a language.
_TECHNICAL = re.compile(r"http|://|www\.|@|\w[_/\\=]\w|[a-z]\.[a-z]|\(\)", re.ASCII)
#: How much of the text is looked at again with the next token.
_LOOK_BACK = 64


@dataclass(frozen=True)
class TextState:
    """Where a text stands.

    Attributes:
        thinking: Whether it is within the marks of a reasoning model's thoughts.
        code: Whether it is within a fenced block of code.
        borrowed: Tokens in a row that have letters, but none of the language's own scripts.
        tail: The end of the text.
    """

    thinking: bool = False
    code: bool = False
    borrowed: int = 0
    tail: str = ""

    @property
    def technical(self) -> bool:
        """Whether the text stands in something of which nothing is a word."""
        # Chinese goes on without a space after an address.
        word = re.split(r"\s|[^\x00-\x7f]", self.tail)[-1]
        return self.code or _TECHNICAL.search(word) is not None


class TextReader:
    """Reads the states of texts, token by token.

    Args:
        tokens: Texts and scripts of the tokenizer's tokens.
        marks: What begins and what ends a thought.
    """

    def __init__(self, tokens: TokenScripts, marks: tuple[str, str]) -> None:
        self._tokens = tokens
        self._begin, self._end = marks

    def start(self, prompt: list[int]) -> TextState:
        """Return the state of a text before its first token."""
        end = "".join(map(self._tokens.text, prompt[-_LOOK_BACK:]))
        # Templates of chats end with the mark that begins the thought, or with an empty thought.
        return TextState(thinking=end.rfind(self._begin) > end.rfind(self._end))

    def after(self, state: TextState, token: int, own: frozenset[str]) -> TextState:
        """Return the state after one more token.

        Args:
            state: The state before.
            token: The token's id.
            own: The scripts of the language that is kept.
        """
        thinking, code, borrowed = state.thinking, state.code, state.borrowed
        tail, known = state.tail + self._tokens.text(token), len(state.tail)
        for mark, begins in ((self._begin, True), (self._end, False)):
            if _completed(mark, tail, known):
                thinking, tail, known, borrowed = begins, "", 0, 0
        if _completed(_FENCE, tail, known):
            code, tail = not code, ""
        scripts = self._tokens.scripts(token)
        if scripts & own:
            borrowed = 0
        elif scripts and not code and thinking == state.thinking:
            borrowed += 1
        return TextState(thinking, code, borrowed, tail[-_LOOK_BACK:])


def _completed(mark: str, text: str, known: int) -> bool:
    """Return whether what came after the first `known` characters completes a mark."""
    return mark in text[max(0, known - len(mark) + 1) :]
