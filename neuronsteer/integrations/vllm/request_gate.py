"""The vocabulary gate for requests of a batch, each with a text and settings of its own.

Torch only, no vLLM: `gate_v1.py` and `gate_v2.py` bring texts and logits from the model runners.
What is held back is decided by the code that `ns.keep` uses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...steering.keeping.gate_rules import GateRules, KeptText
from ...steering.keeping.token_choice import Candidates, Masks, hold_back
from .kept_requests import KeptRequest
from .settings import KeepSettings

#: Below this temperature vLLM takes the likeliest token.
_GREEDY = 1e-5


@dataclass(frozen=True)
class Penalties:
    """What vLLM takes from the scores of tokens that were there already.

    Attributes:
        repetition: Scores are divided by it if they are positive, else multiplied.
        frequency: Taken off for every time that a token was generated.
        presence: Taken off if a token was generated.
    """

    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0

    @classmethod
    def of(cls, params: Any) -> Penalties | None:
        """Return those of sampling parameters, `None` if nothing is taken off."""
        found = cls(
            float(params.repetition_penalty),
            float(params.frequency_penalty),
            float(params.presence_penalty),
        )
        return None if found == cls() else found

    def apply(self, scores: Tensor, prompt: Iterable[int], generated: Sequence[int]) -> Tensor:
        """Return the scores of one row as they will be `[tokens]`."""
        counts = Counter(token for token in generated if 0 <= token < len(scores))
        before = {token for token in prompt if 0 <= token < len(scores)}.union(counts)
        out = scores.clone()
        if before:
            ids = torch.tensor(sorted(before), device=scores.device)
            found = out[ids]
            out[ids] = torch.where(found > 0, found / self.repetition, found * self.repetition)
        if counts:
            ids = torch.tensor(list(counts), device=scores.device)
            times = torch.tensor(list(counts.values()), dtype=out.dtype, device=scores.device)
            out[ids] -= self.frequency * times + self.presence
        return out


class GatedRequest:
    """A request that is kept in a language: its text so far, and how its tokens are chosen.

    Args:
        rules: What is foreign to which language.
        kept: What it is kept in.
        candidates: How its tokens are chosen.
        prompt: The tokens of its prompt.
        penalties: What is taken from scores after the gate, if anything.
    """

    def __init__(
        self,
        rules: GateRules,
        kept: KeptRequest,
        candidates: Candidates,
        prompt: Sequence[int],
        penalties: Penalties | None = None,
    ) -> None:
        self.candidates = candidates
        self._prompt, self._penalties = list(prompt), penalties
        self._text = KeptText(rules, self._prompt, kept.languages, kept.thinking)
        self._tokens: list[int] = []
        self._state = self._text.start()

    @property
    def length(self) -> int:
        """How many tokens there are, those of the prompt included."""
        return len(self._prompt) + len(self._tokens)

    def follow(self, tokens: Sequence[int]) -> None:
        """Take `tokens` for what was generated; if they are other ones than before, start over."""
        known = self._tokens
        if len(tokens) < len(known) or (known and tokens[len(known) - 1] != known[-1]):
            self._tokens, self._state = [], self._text.start()
        for token in tokens[len(self._tokens) :]:
            self.add(token)

    def add(self, token: int) -> None:
        """Take in one more generated token."""
        self._state = self._text.after(self._state, len(self._tokens), token)
        self._tokens.append(token)

    def masks(self, scores: Tensor) -> Masks | None:
        """Return what is foreign to the text now, `None` if it may go on with anything."""
        return self._text.masks(self._state, len(self._tokens), scores)

    @property
    def penalised(self) -> bool:
        """Whether something is taken from scores after the gate."""
        return self._penalties is not None

    def judged(self, scores: Tensor) -> Tensor:
        """Return the scores that decide which token is chosen `[tokens]`."""
        if self._penalties is None:
            return scores
        return self._penalties.apply(scores, self._prompt, self._tokens)


class RequestGate:
    """Holds back foreign tokens in the rows of a batch.

    Args:
        tokenizer: The model's.
        settings: What the server was started with.
    """

    def __init__(self, tokenizer: Any, settings: KeepSettings | None) -> None:
        settings = settings or KeepSettings()
        self._reach = settings.reach
        self._rules = GateRules(
            tokenizer, allow=settings.allow, marks=settings.marks, names=settings.names
        )

    def request(
        self, kept: KeptRequest, params: Any, prompt: Sequence[int], *, penalise: bool
    ) -> GatedRequest:
        """Return a request with its sampling parameters.

        Args:
            kept: What it is kept in.
            params: Its sampling parameters.
            prompt: The tokens of its prompt.
            penalise: Whether the gate comes before penalties, and has to reckon with them.
        """
        candidates = Candidates(reach=self._reach)
        if params.temperature >= _GREEDY:
            candidates = Candidates(
                True,
                float(params.temperature),
                max(int(params.top_k), 0),  # -1 is all, too
                float(params.top_p),
                float(params.min_p),
                min_p_first=True,
            )
        penalties = Penalties.of(params) if penalise else None
        return GatedRequest(self._rules, kept, candidates, prompt, penalties)

    def apply(self, logits: Tensor, kept: Iterable[tuple[int, GatedRequest]]) -> None:
        """Make what is held back impossible, in place.

        Args:
            logits: Of all tokens `[rows, tokens]`.
            kept: The rows that are kept, each with its request.
        """
        alike: dict[Candidates, list[tuple[int, GatedRequest, Masks]]] = {}
        for row, request in kept:
            found = request.masks(logits)
            if found is not None:
                alike.setdefault(request.candidates, []).append((row, request, found))
        for candidates, members in alike.items():
            rows = [row for row, *_ in members]
            masks = [each for *_, each in members]
            held = hold_back(self._judged(logits, members), masks, candidates)
            if held is not None:
                for k, gone in zip(held.rows.tolist(), held.gone, strict=True):
                    logits[rows[k]].masked_fill_(gone, -torch.inf)

    @staticmethod
    def _judged(logits: Tensor, members: list[tuple[int, GatedRequest, Masks]]) -> Tensor:
        """Return the scores that decide, of some rows."""
        rows = [row for row, *_ in members]
        if any(request.penalised for _, request, _ in members):
            return torch.stack([request.judged(logits[row]) for row, request, _ in members])
        return logits if rows == list(range(len(logits))) else logits[rows]
