"""Notices when a text leaves the language that it is kept in, and says when to pull it back.

Of every other language there is a sum. Every word, or part of one, adds to it how much more the
set's neurons look like that language's than like the kept one's, and takes from it, down to
nothing, what speaks for the kept one; letters of a script that the kept language does not have are
added to the sum of the likeliest other one. Where a sum exceeds a bound, the text is steered for
some tokens, and watched again afterwards: while it is steered, the neurons show what steering did.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ...errors import ParameterError, unknown_label
from ...languages import is_known, usual_scripts
from ..prompt_reader import PromptReader
from .running_text import THOUGHT_MARKS, TextReader, TextState
from .token_scripts import TokenScripts

# benchmarks/language_sensor.py says what becomes of texts with these, and with others.
SLACK = 0.04
#: What one token can add at most, and take, before the slack.
MOST = 0.2
BOUND = 0.15
#: For how many tokens it is pulled back then.
HOLD = 8


@dataclass(frozen=True)
class Watch:
    """What is known of a text after one of its tokens.

    Attributes:
        text: Where it stands.
        kept: The label that the next token but one is kept to; `None`: none.
        sums: How much has spoken for each label lately; empty: nothing.
        pulled: For how many tokens to come the text is pulled back.
        left: The label that it is pulled away from.
    """

    text: TextState
    kept: str | None = None
    sums: tuple[float, ...] = ()
    pulled: int = 0
    left: str | None = None


@dataclass(frozen=True)
class PullBack:
    """A part of a text that was pulled back to its language.

    Attributes:
        row: Row of the batch.
        token: The first generated token of it.
        tokens: How many.
        language: The label that it was pulled to.
        left: The label that it was found in.
    """

    row: int
    token: int
    tokens: int
    language: str
    left: str | None


class LanguageSensor:
    """Watches texts.

    Args:
        reader: Compares neurons with every label's means.
        tokenizer: The model's.
        thinking: Whether thoughts of reasoning models are watched, too.
        marks: What begins and what ends a thought.
        hold: For how many tokens a text is pulled back.
        slack: What a token must exceed, as a difference of cosines, to speak for another language.
        bound: The sum at which a text has left its language.
    """

    def __init__(
        self,
        reader: PromptReader,
        tokenizer: Any,
        *,
        thinking: bool = False,
        marks: tuple[str, str] = THOUGHT_MARKS,
        hold: int = HOLD,
        slack: float = SLACK,
        bound: float = BOUND,
    ) -> None:
        if hold < 1:
            raise ParameterError(f"hold={hold}: a text is pulled back for at least one token.")
        self.reader, self.hold = reader, hold
        self._slack, self._bound = slack, bound
        self._thinking = thinking
        self._tokens = TokenScripts.of(tokenizer)
        self._text = TextReader(self._tokens, marks)
        self._scripts = {
            label: usual_scripts(label) if is_known(label) else frozenset[str]()
            for label in reader.labels
        }

    def check(self, labels: tuple[str, ...]) -> None:
        """Raise if a label is none that this set can tell."""
        for label in labels:
            if label not in self._scripts:
                raise unknown_label(label, self.reader.labels)

    def start(self, prompt: list[int], kept: str | None) -> Watch:
        """Return what is known before the first token."""
        return Watch(self._text.start(prompt), kept)

    def after(self, watch: Watch, token: int, likeness: Tensor | None, kept: str | None) -> Watch:
        """Return what is known after one more token.

        Args:
            watch: What was known before.
            token: The token's id.
            likeness: How much the neurons look like each label's there `[labels]`.
            kept: The label from the next token but one on.
        """
        own = self._scripts.get(kept or "", frozenset())
        text = self._text.after(watch.text, token, own)
        if kept is None or (text.thinking and not self._thinking):
            return Watch(text, kept)
        if watch.kept not in (None, kept):
            return Watch(text, kept, (), self.hold, watch.kept)
        if watch.pulled:
            left = watch.left if watch.pulled > 1 else None
            return Watch(text, kept, (), watch.pulled - 1, left)
        scripts = self._tokens.scripts(token)
        if text.technical or likeness is None or not scripts:
            return replace(watch, text=text, kept=kept)
        # A name in Latin letters may stand in any text; what it says is left to the neurons.
        foreign = bool(own) and not scripts & own and "LATIN" not in scripts
        sums = self._sums(watch.sums, likeness, kept, foreign)
        highest = max(sums)
        if highest > self._bound:
            return Watch(text, kept, (), self.hold, self.reader.labels[sums.index(highest)])
        return Watch(text, kept, sums)

    def _sums(
        self, before: tuple[float, ...], likeness: Tensor, kept: str, foreign: bool
    ) -> tuple[float, ...]:
        """Return the sums after a token, of which the kept label's stays nothing."""
        labels = self.reader.labels
        mine = likeness[labels.index(kept)]
        found: list[float] = ((likeness - mine).clamp(-MOST, MOST) - self._slack).tolist()
        if foreign:
            likeliest = max(
                (k for k, label in enumerate(labels) if label != kept), key=found.__getitem__
            )
            found[likeliest] = MOST
        sums = zip(before or [0.0] * len(labels), found, strict=True)
        return tuple(max(0.0, total + value) for total, value in sums)


def pulled_back(watches: list[Watch], row: int, tokens: int) -> list[PullBack]:
    """Return where a text of so many tokens was pulled back.

    Args:
        watches: What was known after 0, 1, 2, … of its tokens.
        row: Row of the batch.
        tokens: How many there are.
    """
    found: list[PullBack] = []
    for count, watch in enumerate(watches[: max(tokens - 1, 0)]):
        if not watch.pulled or watch.kept is None:
            continue
        last = found[-1] if found else None
        token = count + 1  # by then this token was being written
        if last is not None and last.token + last.tokens == token and last.left == watch.left:
            found[-1] = replace(last, tokens=last.tokens + 1)
        else:
            found.append(PullBack(row, token, 1, watch.kept, watch.left))
    return found
