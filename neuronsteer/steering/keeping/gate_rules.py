"""Which tokens a text must not go on with: what all vocabulary gates have in common.

The gates of transformers (`vocabulary_gate.py`) and of vLLM (`integrations/vllm/request_gate.py`)
differ in where they get texts and scores from. What is foreign is decided here, and what is held
back of it in `token_choice.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ...errors import ParameterError
from ...languages import check_known, usual_scripts
from ..schedule import Schedule
from .running_text import THOUGHT_MARKS, TextReader, TextState
from .token_choice import Masks
from .token_scripts import TokenScripts

#: What a row is kept in.
Kept = str | Schedule | None

#: Text of every language may have these: names, code, addresses.
_ANYWHERE = frozenset({"LATIN"})
#: In `allow`: foreign words of the prompt, unless the prompt as a whole is foreign.
PROMPT = "prompt"
_QUOTED_SHARE = 0.25
#: Latin tokens in a row that may stand in a text of another script.
NAMES = 6


class GateRules:
    """What is foreign to which language, in a tokenizer's vocabulary.

    Args:
        tokenizer: The model's.
        allow: Words that stay allowed. "prompt": foreign words of the prompt, if they are at most a
            quarter of it.
        marks: What begins and what ends a thought.
        names: Latin tokens in a row that may stand in a text of another script.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        allow: str | Iterable[str] = PROMPT,
        marks: tuple[str, str] = THOUGHT_MARKS,
        names: int = NAMES,
    ) -> None:
        if names < 1:
            raise ParameterError(f"names={names}: a name has at least one token; pass 1 or more.")
        self.names = names
        self.tokens = TokenScripts.of(tokenizer)
        self.reader = TextReader(self.tokens, marks)
        self.quotes = allow == PROMPT
        words = [] if isinstance(allow, str) and self.quotes else allow
        self._allowed = _ids_of(tokenizer, [words] if isinstance(words, str) else words)
        self._known: dict[tuple[str, bool], Masks] = {}

    def masks(self, language: str, strict: bool, scores: Tensor) -> Masks:
        """Return what is foreign to a language.

        Args:
            language: The language.
            strict: Whether Latin letters are foreign to another script, and only tokens of the
                language's own scripts are a choice.
            scores: What they are for.
        """
        key = (language, strict)
        known = self._known.get(key)
        if known is None or not _fits(known, scores):
            own = usual_scripts(language)
            foreign = self.tokens.foreign(own if strict else own | _ANYWHERE)
            foreign[self._allowed] = False
            fitting = self.tokens.having(own) & ~foreign if strict else ~foreign
            known = self._known[key] = Masks(
                _fitted(foreign, scores, False), _fitted(fitting, scores, not strict)
            )
        return known

    def quoted(self, prompt: Sequence[int], language: str) -> list[int]:
        """Return the foreign tokens of a prompt that is otherwise not foreign."""
        fitting = usual_scripts(language) | _ANYWHERE
        lettered = [token for token in prompt if self.tokens.scripts(token)]
        foreign = [token for token in lettered if not self.tokens.scripts(token) <= fitting]
        some = self.quotes and 0 < len(foreign) <= _QUOTED_SHARE * len(lettered)
        return sorted(set(foreign)) if some else []


class KeptText:
    """A text that is kept in a language: where it stands after each token, what is foreign there.

    Args:
        rules: What is foreign to which language.
        prompt: The tokens that it goes on from.
        languages: What it is kept in.
        thinking: The language of a reasoning model's thoughts; `None`: they are left alone.
    """

    def __init__(
        self, rules: GateRules, prompt: list[int], languages: Schedule, thinking: str | None
    ) -> None:
        self._rules, self._prompt = rules, prompt
        self._languages, self._thinking = languages, thinking
        self._quoted: dict[str, list[int]] = {}
        self._quoting: dict[str, Masks] = {}

    def start(self) -> TextState:
        """Return where the text stands before its first token."""
        return self._rules.reader.start(self._prompt)

    def after(self, state: TextState, at: int, token: int) -> TextState:
        """Return where it stands after one more token.

        Args:
            state: Where it stood before.
            at: How many tokens had been generated.
            token: The token's id.
        """
        language = self._language(state, at)
        own = frozenset[str]() if language is None else usual_scripts(language)
        return self._rules.reader.after(state, token, own)

    def masks(self, state: TextState, at: int, scores: Tensor) -> Masks | None:
        """Return what is foreign to the text now, `None` if it may go on with anything.

        Args:
            state: Where it stands.
            at: How many tokens have been generated.
            scores: What the masks are for.
        """
        language = self._language(state, at)
        if language is None or state.technical:
            return None
        # After so many names in a row it is no name any more; a comma is no choice then.
        if not usual_scripts(language) & _ANYWHERE and state.borrowed >= self._rules.names:
            return self._rules.masks(language, True, scores)
        plain = self._rules.masks(language, False, scores)
        if language not in self._quoted:
            self._quoted[language] = self._rules.quoted(self._prompt, language)
        if not self._quoted[language]:
            return plain
        known = self._quoting.get(language)
        if known is None or not _fits(known, scores):
            known = self._quoting[language] = _allowing(plain, self._quoted[language])
        return known

    def _language(self, state: TextState, at: int) -> str | None:
        return self._thinking if state.thinking else self._languages.at(at)[0]


def schedules_of(language: Kept | Sequence[Kept]) -> list[Schedule]:
    """Return what each row is kept in; raise if that is not a language, or waits for text."""
    found: list[Schedule] = []
    alone = language is None or isinstance(language, str | Schedule)
    for each in cast(Sequence[Kept], [language] if alone else language):
        if isinstance(each, str) and any(mark in each for mark in ",:"):
            each = Schedule.parse(each)
        schedule = each if isinstance(each, Schedule) else Schedule(each)
        for label in schedule.labels:
            check_known(label)
        if schedule.is_conditional:
            raise ParameterError(
                f"{str(schedule)!r} waits for text; what a text is kept in goes by the number of "
                "tokens, e.g. 'en,24:ko'."
            )
        found.append(schedule)
    return found


def _fits(masks: Masks, scores: Tensor) -> bool:
    foreign = masks.foreign
    return foreign.device == scores.device and foreign.shape[-1] == scores.shape[-1]


def _allowing(masks: Masks, tokens: list[int]) -> Masks:
    foreign = masks.foreign.clone()
    known = [token for token in tokens if token < len(foreign)]
    foreign[torch.tensor(known, dtype=torch.int64, device=foreign.device)] = False
    return Masks(foreign, ~foreign)


def _fitted(tokens: Tensor, scores: Tensor, rest: bool) -> Tensor:
    """Return a mask as wide as the model's scores, which are more than the tokenizer's tokens."""
    width = scores.shape[-1]
    found = torch.full((width,), rest)
    found[: min(width, len(tokens))] = tokens[:width]
    return found.to(scores.device)


def _ids_of(tokenizer: Any, words: Iterable[str]) -> Tensor:
    """Return the tokens of words, at the beginning of a text and within it."""
    found: set[int] = set()
    for word in words:
        for text in (word, f" {word}"):
            found.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    return torch.tensor(sorted(found), dtype=torch.int64)
