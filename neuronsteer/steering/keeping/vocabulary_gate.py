"""The vocabulary gate: tokens of foreign scripts are held back while there is another choice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import LogitsProcessor

from ...errors import ParameterError
from ...languages import check_known
from ..timeline import RowText, follow_all
from .gate_rules import NAMES, PROMPT, GateRules, Kept, KeptText, schedules_of
from .running_text import THOUGHT_MARKS, TextState
from .token_choice import Candidates, Masks, hold_back

#: Where every token may be drawn, some foreign one is always refused; rarer ones are not told.
_TELLING = 0.001


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
        names: int = NAMES,
        candidates: Candidates | None = None,
    ) -> None:
        if thinking is not None:
            check_known(thinking)
        self._rules = GateRules(tokenizer, allow=allow, marks=marks, names=names)
        self._languages, self._thinking = schedules_of(language), thinking
        self._candidates = candidates or Candidates()
        self._prompt: Tensor | None = None
        self._rows: list[RowText] = []
        self._kept: list[KeptText] = []
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
        rows: list[int] = []
        masks: list[Masks] = []
        for row, (text, state) in enumerate(zip(self._kept, states, strict=True)):
            foreign = text.masks(state, at, scores)
            if foreign is not None:
                rows.append(row)
                masks.append(foreign)
        if not rows:
            return scores
        here = scores if len(rows) == len(states) else scores[rows]
        held = hold_back(here, masks, self._candidates)
        if held is None:
            return scores
        before = here[held.rows]
        after = before.masked_fill(held.gone, -torch.inf)
        out = scores.clone()
        at_rows = [rows[each] for each in held.rows.tolist()]
        out[at_rows] = after
        refused = torch.where(held.foreign, before, -torch.inf).argmax(-1).tolist()
        for k, (row, token) in enumerate(zip(at_rows, refused, strict=True)):
            told = self._refusal(row, at, before[k], token, int(after[k].argmax()))
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
        self._rows = follow_all(self._rows, ids[:, prompt.shape[1] :].cpu())
        found: list[TextState] = []
        for kept, row in zip(self._kept, self._rows, strict=True):
            steps = row.progress.setdefault(self, [kept.start()])
            for token in row.tokens[len(steps) - 1 :]:
                steps.append(kept.after(steps[-1], len(steps) - 1, token))
            found.append(steps[-1])
        return found

    def _begin(self, ids: Tensor) -> None:
        rows, languages = len(ids), self._languages
        if rows % len(languages):
            raise ParameterError(
                f"{len(languages)} languages were given, one per row, but the batch has "
                f"{rows} rows. Give one language, or as many as there are prompts."
            )
        self._prompt, self._rows, self._refused = ids, [], {}
        self._kept = [
            KeptText(self._rules, prompt, languages[row * len(languages) // rows], self._thinking)
            for row, prompt in enumerate(ids.tolist())
        ]

    def _refusal(self, row: int, at: int, scores: Tensor, refused: int, instead: int) -> Refusal:
        likely = float((scores[refused].float() - scores.float().logsumexp(-1)).exp())
        text = self._rules.tokens.text
        return Refusal(row, at, text(refused), likely, text(instead))
