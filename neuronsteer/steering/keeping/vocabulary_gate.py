"""The vocabulary gate: tokens of foreign scripts are held back while there is another choice."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ...errors import ParameterError
from ...languages import check_known, usual_scripts
from ..schedule import Schedule
from ..timeline import RowText, follow_all
from .running_text import THOUGHT_MARKS, TextReader, TextState
from .token_scripts import TokenScripts

#: What a row is kept in.
Kept = str | Schedule | None

#: Text of every language may have these: names, code, addresses.
_ANYWHERE = frozenset({"LATIN"})
#: In `allow`: foreign words of the prompt, unless the prompt as a whole is foreign.
PROMPT = "prompt"
_QUOTED_SHARE = 0.25
#: Where every token may be drawn, some foreign one is always refused; rarer ones are not told.
_TELLING = 0.001


@dataclass(frozen=True)
class Candidates:
    """What a token must be to be chosen: the settings of `generate` that say so.

    Attributes:
        sampling: Whether tokens are drawn. Otherwise the likeliest is taken.
        temperature: Of sampling.
        top_k: Only the so many likeliest; 0: all.
        top_p: Only the likeliest that together have this probability.
        min_p: Only those at least this share as likely as the likeliest.
        beams: How many continuations are followed at once.
        reach: Where the likeliest is taken: another one is a choice too if it is at least this
            share as likely.
    """

    sampling: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    beams: int = 1
    reach: float = 0.01

    @classmethod
    def of(cls, model: Any, given: dict[str, Any], reach: float) -> Candidates:
        """Return those of `model.generate(**given)`."""
        configs = (given.get("generation_config"), model.generation_config)

        def value(name: str, default: Any) -> Any:
            found = [given.get(name), *(getattr(config, name, None) for config in configs)]
            return next((each for each in found if each is not None), default)

        beams = int(value("num_beams", 1))
        if not value("do_sample", False):
            return cls(beams=beams, reach=reach)
        return cls(
            True,
            float(value("temperature", 1.0)) or 1.0,
            int(value("top_k", 50)),
            float(value("top_p", 1.0)),
            float(value("min_p", 0.0)),
            beams,
            reach,
        )

    @property
    def count(self) -> int:
        """How many of the likeliest tokens hold all candidates; 0 if there is no such number."""
        if self.sampling:
            return self.top_k
        # Each beam may go on with any of these.
        return 1 if self.beams == 1 else 2 * self.beams

    def surely_without(self, tokens: Tensor, scores: Tensor) -> bool:
        """Return whether none of `tokens` is among those that can be chosen, told quickly.

        Args:
            tokens: Which `[rows, tokens]`.
            scores: Of all tokens `[rows, tokens]`.
        """
        if not self.count:
            return False
        likeliest = scores.topk(min(self.count, scores.shape[-1]), -1).indices
        return not bool(tokens.gather(-1, likeliest).any())

    def least(self, scores: Tensor) -> Tensor:
        """Return the lowest score with which a token is chosen from `[rows]`."""
        top = scores.amax(-1)
        if not self.sampling and self.beams == 1:
            return top + math.log(self.reach)
        if not self.count and self.top_p == 1:
            return top + self.temperature * math.log(self.min_p) if self.min_p else top - torch.inf
        values = scores.topk(min(self.count or scores.shape[-1], scores.shape[-1]), -1).values
        kept = torch.isfinite(values)
        if self.top_p < 1:
            share = (values / self.temperature).softmax(-1)
            kept &= share.cumsum(-1) - share < self.top_p
        if self.min_p:
            kept &= values >= top[:, None] + self.temperature * math.log(self.min_p)
        return values.gather(-1, kept.sum(-1, keepdim=True).clamp(min=1) - 1)[:, 0]


@dataclass(frozen=True)
class Refusal:
    """A token that was held back.

    Attributes:
        row: Row of the batch.
        token: Position among the generated tokens.
        text: What was refused, the likeliest of it.
        probability: What the model gave it.
        instead: The likeliest token that was left.
    """

    row: int
    token: int
    text: str
    probability: float
    instead: str


class VocabularyGate(LogitsProcessor):
    """Holds back tokens of scripts that a language is not written in, where there is a choice.

    A token is held back if it has letters of a foreign script (pieces of characters included) and
    a token without any is among those that would be sampled from. Otherwise nothing is touched.
    Digits, punctuation and Latin letters stay allowed in every language, whatever they say; in a
    language of another script, however, no more than `names` Latin tokens in a row. Within blocks
    of code, addresses and names of code nothing is held back.

    One object serves one generation: `model.generate(…, logits_processor=[gate])`. `keep` makes one
    for each.

    Args:
        tokenizer: The model's.
        language: A language code, a schedule of them, or a list with one per row of the batch;
            `None`: no gate.
        allow: Words that stay allowed. "prompt": foreign words of the prompt, if they are at most a
            quarter of it.
        thinking: The language of a reasoning model's thoughts; `None`: they are left alone.
        marks: What begins and what ends a thought.
        names: Latin tokens in a row that may stand in a text of another script.
        candidates: How tokens are chosen.
    """

    # The text so far belongs to a row, and continuous batching has none.
    supports_continuous_batching = False

    def __init__(
        self,
        tokenizer: Any,
        language: Kept | Sequence[Kept],
        *,
        allow: str | Iterable[str] = PROMPT,
        thinking: str | None = None,
        marks: tuple[str, str] = THOUGHT_MARKS,
        names: int = 6,
        candidates: Candidates | None = None,
    ) -> None:
        if thinking is not None:
            check_known(thinking)
        if names < 1:
            raise ParameterError(f"names={names}: a name has at least one token; pass 1 or more.")
        self._languages, self._thinking, self._names = schedules_of(language), thinking, names
        self._candidates = candidates or Candidates()
        self._tokens = TokenScripts.of(tokenizer)
        self._reader = TextReader(self._tokens, marks)
        self._quotes = allow == PROMPT
        words = [] if isinstance(allow, str) and self._quotes else allow
        self._allowed = _ids_of(tokenizer, [words] if isinstance(words, str) else words)
        self._known: dict[tuple[str, bool], tuple[Tensor, Tensor]] = {}
        self._prompt: Tensor | None = None
        self._texts: list[RowText] = []
        self._starts: list[TextState] = []
        self._quoted: dict[tuple[int, str], Tensor | None] = {}
        self._refused: dict[tuple[int, int], Refusal] = {}

    @property
    def refused(self) -> list[Refusal]:
        """What was held back so far."""
        return [self._refused[key] for key in sorted(self._refused)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return `scores`, themselves unless a token is held back."""
        states = self._states(input_ids)
        at = input_ids.shape[1] - cast(Tensor, self._prompt).shape[1]
        for row in range(len(states) if self._refused else 0):
            self._refused.pop((row, at), None)  # of a draft that was rejected
        found = [self._rule(row, state, at, scores) for row, state in enumerate(states)]
        rows = [row for row, rule in enumerate(found) if rule is not None]
        if not rows:
            return scores
        here = scores if len(rows) == len(found) else scores[rows]
        foreign, fitting = (
            torch.stack(each) for each in zip(*[rule for rule in found if rule], strict=True)
        )
        candidates = self._candidates
        if candidates.surely_without(foreign, here):
            return scores
        least = candidates.least(here)
        refused = here.masked_fill(~foreign, -torch.inf).max(-1)
        # Where the likeliest is taken, a foreign token comes only if it is the likeliest.
        chosen = refused.values >= (here.amax(-1) if candidates.count == 1 else least)
        chosen &= here.masked_fill(~fitting, -torch.inf).amax(-1) >= least
        if not bool(chosen.any()):
            return scores
        out = scores.clone()
        for k in chosen.nonzero()[:, 0].tolist():
            row, gone = rows[k], foreign[k]
            if candidates.sampling and candidates.beams == 1:
                # The others are drawn from as before: no less likely one takes the empty place.
                gone = gone | (here[k] < least[k])
            out[row] = here[k].masked_fill(gone, -torch.inf)
            told = self._refusal(row, at, here[k], int(refused.indices[k]), int(out[row].argmax()))
            if told.probability >= _TELLING:
                self._refused[row, at] = told
        return out

    def _states(self, ids: Tensor) -> list[TextState]:
        """Return where each row of the batch stands; `ids` begin with the prompt."""
        prompt = self._prompt
        if (
            prompt is None
            or len(ids) != len(prompt)
            or ids.shape[1] <= prompt.shape[1]
            or not torch.equal(ids[:1, : prompt.shape[1]], prompt[:1])
        ):
            self._begin(ids)
            prompt = ids
        self._texts = follow_all(self._texts, ids[:, prompt.shape[1] :].cpu())
        found: list[TextState] = []
        for row, text in enumerate(self._texts):
            steps = text.progress.setdefault(self, [self._starts[row]])
            for token in text.tokens[len(steps) - 1 :]:
                state: TextState = steps[-1]
                language = self._language(row, state, len(steps) - 1)
                own = frozenset() if language is None else usual_scripts(language)
                steps.append(self._reader.after(state, token, own))
            found.append(steps[-1])
        return found

    def _begin(self, ids: Tensor) -> None:
        if len(ids) % len(self._languages):
            raise ParameterError(
                f"{len(self._languages)} languages were given, one per row, but the batch has "
                f"{len(ids)} rows. Give one language, or as many as there are prompts."
            )
        self._prompt, self._texts, self._refused, self._quoted = ids, [], {}, {}
        self._starts = [self._reader.start(each) for each in ids.tolist()]

    def _language(self, row: int, state: TextState, token: int) -> str | None:
        """Return the language that a token of a row is kept in."""
        if state.thinking:
            return self._thinking
        assert self._prompt is not None
        return self._languages[row * len(self._languages) // len(self._prompt)].at(token)[0]

    def _rule(
        self, row: int, state: TextState, token: int, scores: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Return which tokens are foreign to a row, and which are a choice instead."""
        language = self._language(row, state, token)
        if language is None or state.technical:
            return None
        own = usual_scripts(language)
        # After so many names in a row it is no name any more; a comma is no choice then.
        if not own & _ANYWHERE and state.borrowed >= self._names:
            return self._tokens_of(language, True, scores)
        foreign, fitting = self._tokens_of(language, False, scores)
        quoted = self._foreign_words(row, language) if self._quotes else None
        if quoted is None:
            return foreign, fitting
        foreign = foreign.clone()
        foreign[quoted.to(foreign.device)] = False
        return foreign, ~foreign

    def _tokens_of(self, language: str, strict: bool, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return which tokens are foreign to a language, and which are a choice instead.

        Args:
            language: The language.
            strict: Whether Latin letters are foreign to another script, and only tokens of the
                language's own scripts are a choice.
            scores: What they are for.
        """
        key = (language, strict)
        known = self._known.get(key)
        if known is None or known[0].device != scores.device:
            own = usual_scripts(language)
            foreign = self._tokens.foreign(own if strict else own | _ANYWHERE)
            foreign[self._allowed] = False
            fitting = self._tokens.having(own) & ~foreign if strict else ~foreign
            known = self._known[key] = (
                _fitted(foreign, scores, False),
                _fitted(fitting, scores, not strict),
            )
        return known

    def _foreign_words(self, row: int, language: str) -> Tensor | None:
        """Return the foreign tokens of a prompt that is otherwise not foreign."""
        key = (row, language)
        if key not in self._quoted:
            assert self._prompt is not None
            prompt: list[int] = self._prompt[row].tolist()
            fitting = usual_scripts(language) | _ANYWHERE
            lettered = [token for token in prompt if self._tokens.scripts(token)]
            foreign = [token for token in lettered if not self._tokens.scripts(token) <= fitting]
            some = 0 < len(foreign) <= _QUOTED_SHARE * len(lettered)
            self._quoted[key] = torch.tensor(sorted(set(foreign))) if some else None
        return self._quoted[key]

    def _refusal(self, row: int, at: int, scores: Tensor, refused: int, instead: int) -> Refusal:
        likely = float((scores[refused].float() - scores.float().logsumexp(-1)).exp())
        return Refusal(row, at, self._tokens.text(refused), likely, self._tokens.text(instead))


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
