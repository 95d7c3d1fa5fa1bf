"""From generated tokens to pieces of text, and from a timeline to spans of that text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

# Tokens of the prompt that are decoded along with the first new one: whether it starts with a space
# depends on its neighbours, not on the whole prompt.
_CONTEXT = 6
_INCOMPLETE = "\ufffd"

Run = tuple[int, int, "str | None"]


class Detokenizer:
    """Turns one token after another into text, holding back incomplete characters.

    Args:
        tokenizer: The model's tokenizer.
        prompt: Ids of the prompt, which give the first new token its context.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int]) -> None:
        self._tokenizer = tokenizer
        self._ids = list(prompt)
        self._shown = len(self._ids)
        self._from = max(0, self._shown - _CONTEXT)

    def push(self, token: int) -> str:
        """Return the text that `token` completes; empty while a character is unfinished."""
        self._ids.append(token)
        return self._take(final=False)

    def flush(self) -> str:
        """Return what is left at the end, with a substitute for an unfinished character."""
        return self._take(final=True)

    def _take(self, *, final: bool) -> str:
        before = self._decode(self._ids[self._from : self._shown])
        now = self._decode(self._ids[self._from :])
        if not final and now.endswith(_INCOMPLETE):
            return ""
        self._from, self._shown = self._shown, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def pieces(tokenizer: Any, prompt: Sequence[int], generated: Iterable[int]) -> list[str]:
    """Return the text of each generated token; joined, they are the completion."""
    detokenizer = Detokenizer(tokenizer, prompt)
    found = [detokenizer.push(token) for token in generated]
    rest = detokenizer.flush() if found else ""
    if rest:
        found[-1] += rest
    return found


def locate(runs: Iterable[Run], texts: Sequence[str], offset: int) -> list[dict[str, Any]]:
    """Return spans of the whole text for runs of generated tokens.

    Args:
        runs: `(first token, end token, label)`.
        texts: The text of each generated token.
        offset: Where the first of them starts, i.e. the length of the prompt.

    Returns:
        `label`; `start` and `end` in characters of the whole text; `token_start` and `token_end` in
        generated tokens.
    """
    at = [offset]
    for text in texts:
        at.append(at[-1] + len(text))
    return [
        {
            "label": label,
            "start": at[first],
            "end": at[end],
            "token_start": first,
            "token_end": end,
        }
        for first, end, label in runs
    ]
