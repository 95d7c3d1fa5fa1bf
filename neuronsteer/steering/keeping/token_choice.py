"""What a model chooses its next token from, and which of that is held back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

#: As `top_p` alone limits no number of tokens, so many of the likeliest are looked at first.
_FEW = 512


class Masks(NamedTuple):
    """What a text must not go on with, and what it may instead.

    Attributes:
        foreign: Which tokens are foreign to it `[tokens]`.
        fitting: Which ones are a choice instead of these `[tokens]`.
    """

    foreign: Tensor
    fitting: Tensor


class Held(NamedTuple):
    """What is held back.

    Attributes:
        rows: In which rows of the scores `[held]`.
        foreign: Which tokens are foreign there `[held, tokens]`.
        gone: Which ones cannot be chosen any more: not those either that were too unlikely before
            `[held, tokens]`.
    """

    rows: Tensor
    foreign: Tensor
    gone: Tensor


@dataclass(frozen=True)
class Candidates:
    """What a token must be to be chosen: the settings of sampling that say so.

    Attributes:
        sampling: Whether tokens are drawn. Otherwise the likeliest is taken.
        temperature: Of sampling.
        top_k: Only the so many likeliest; 0: all.
        top_p: Only the likeliest that together have this probability.
        min_p: Only those at least this share as likely as the likeliest.
        beams: How many continuations are followed at once.
        reach: Where the likeliest is taken: another one is a choice too if it is at least this
            share as likely.
        min_p_first: Whether `top_p` is a share of what `min_p` left, as in vLLM.
    """

    sampling: bool = False
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    beams: int = 1
    reach: float = 0.01
    min_p_first: bool = False

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
    def is_limited(self) -> bool:
        """Whether some tokens are too unlikely to be chosen."""
        return bool(not self.sampling or self.top_k or self.min_p) or self.top_p < 1

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
        if self.count == 1:
            likeliest = scores.argmax(-1, keepdim=True)
        else:
            likeliest = scores.topk(min(self.count, scores.shape[-1]), -1).indices
        return not bool(tokens.gather(-1, likeliest).any())

    def least(self, scores: Tensor) -> Tensor:
        """Return the lowest score with which a token is chosen from `[rows]`."""
        top = scores.amax(-1)
        if not self.sampling and self.beams == 1:
            return top + math.log(self.reach)
        bound = top + self.temperature * math.log(self.min_p) if self.min_p else top - torch.inf
        if not self.count and self.top_p == 1:
            return bound
        least, found = self._least_of(scores, bound, self.count or _FEW)
        return least if found else self._least_of(scores, bound, scores.shape[-1])[0]

    def _least_of(self, scores: Tensor, bound: Tensor, count: int) -> tuple[Tensor, bool]:
        """Return the lowest score among the `count` likeliest, and whether lower ones are none.

        Args:
            scores: Of all tokens `[rows, tokens]`.
            bound: The lowest one that `min_p` admits `[rows]`.
            count: So many are looked at.
        """
        values = scores.topk(min(count, scores.shape[-1]), -1).values
        kept = torch.isfinite(values)
        likely = values >= bound[:, None]
        if self.min_p_first:
            kept &= likely
        found = True
        if self.top_p < 1:
            # Of the likeliest alone if `top_k` says so, otherwise of all.
            whole = values.masked_fill(~kept, -torch.inf)
            if not self.count and count < scores.shape[-1]:
                whole = scores
                if self.min_p_first and self.min_p:
                    whole = whole.masked_fill(whole < bound[:, None], -torch.inf)
            total = (whole / self.temperature).logsumexp(-1, keepdim=True)
            share = (values / self.temperature - total).exp().masked_fill(~kept, 0)
            before = share.cumsum(-1) - share
            kept &= before < self.top_p
            found = bool(self.count) or not bool(kept[:, -1].any())
        kept &= likely
        return values.gather(-1, kept.sum(-1, keepdim=True).clamp(min=1) - 1)[:, 0], found


def hold_back(scores: Tensor, masks: Sequence[Masks], candidates: Candidates) -> Held | None:
    """Return what is held back: foreign tokens, in rows in which there is another choice.

    Args:
        scores: Of all tokens `[rows, tokens]`.
        masks: Of each row.
        candidates: How tokens are chosen.
    """
    foreign = _stacked([each.foreign for each in masks])
    if candidates.surely_without(foreign, scores):
        return None
    fitting = _stacked([each.fitting for each in masks])
    least = candidates.least(scores)
    top = scores.amax(-1)
    refused = torch.where(foreign, scores, -torch.inf).amax(-1)
    # Where the likeliest is taken, a foreign token comes only if it is the likeliest.
    chosen = refused >= (top if candidates.count == 1 else least)
    instead = torch.where(fitting, scores, -torch.inf).amax(-1)
    # What something else has forbidden is no choice.
    chosen &= (instead >= least) & torch.isfinite(instead) & torch.isfinite(refused)
    rows = chosen.nonzero()[:, 0]
    if not len(rows):
        return None
    foreign = foreign[rows]
    gone = foreign
    if candidates.sampling and candidates.beams == 1 and candidates.is_limited:
        # The others are drawn from as before: no less likely one takes the empty place.
        gone = foreign | (scores[rows] < least[rows, None])
    return Held(rows, foreign, gone)


def _stacked(masks: list[Tensor]) -> Tensor:
    """Return the masks as rows; those of a language are one and the same, and are not copied."""
    first = masks[0]
    if all(each is first for each in masks):
        return first.expand(len(masks), -1)
    return torch.stack(masks)
