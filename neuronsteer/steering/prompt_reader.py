"""Tells what a prompt is written in, from the means that a neuron set carries for every label.

The prompt's last tokens are run once, unsteered. What the set's neurons do there is compared with
what they do on average in each label's text; the label whose averages point the same way is it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import MEANS
from .attachment import Attachment, tensor_columns
from .compile import steered_site

#: Tokens at the end of the prompt that are looked at: the language that is left is the last one.
TOKENS = 64
#: After the last turn a template writes at most so many tokens that open the answer.
_OPENING = 12
#: Coordinates of the residual stream this many times as large as the median are not looked at.
MASSIVE = 20.0


class PromptReader:
    """Reads the language of prompts with the neurons of one set.

    Args:
        neurons: The set; it carries the means of several labels.
        attachment: Where its neurons are.
    """

    def __init__(self, neurons: NeuronSet, attachment: Attachment) -> None:
        self.labels = neurons.means_of
        means_of_all = neurons.values.get(f"{steered_site(neurons.site)}.{MEANS}")
        readable = [] if means_of_all is None else attachment.readable(neurons.site)
        self._columns: dict[int, Tensor] = {}
        means: list[Tensor] = [torch.zeros(0, len(self.labels))]
        for number, point in readable:
            index, rows = neurons.neurons_of(point.layer)
            if len(index) and means_of_all is not None:
                self._columns[number] = tensor_columns(point, index)
                means.append(means_of_all[rows])
        joined = torch.cat(means)
        self._centre = joined.mean(1, keepdim=True)
        if steered_site(neurons.site) == "resid":
            # A few coordinates are far larger than all others, whatever the language; what is left
            # is on one scale. (Gemma 3 270M, 12 languages: 99 % of prompts right, with them 60 %.)
            size = joined.abs().mean(1, keepdim=True)
            self._weight = (size <= MASSIVE * size.median()).float() if len(size) else size
        else:
            spread = joined.std(1, keepdim=True)
            # A neuron that does the same everywhere tells nothing.
            self._weight = torch.where(spread > 0, 1 / spread, 0.0)
        apart = (joined - self._centre) * self._weight
        self._directions = torch.nn.functional.normalize(apart, dim=0)

    def __bool__(self) -> bool:
        """Return whether there is anything to read with."""
        return bool(self._columns)

    def start(self, counted: Tensor) -> Reading:
        """Return what collects one forward pass.

        Args:
            counted: Which positions count `[batch, length]`.
        """
        return Reading(self._columns, counted)

    def languages(self, reading: Reading) -> list[str | None]:
        """Return the label of every row of the batch; `None` where no position counted."""
        if set(reading.means) != set(self._columns):
            return [None] * len(reading.counted)  # layers that are compiled cannot be read
        values = torch.cat([reading.means[number] for number in self._columns], 1)
        best = self._likeness(values).argmax(-1).tolist()
        any_counted = reading.counted.any(1).tolist()
        return [
            self.labels[k] if counted else None
            for k, counted in zip(best, any_counted, strict=True)
        ]

    def watch(self, batch: int, length: int, last: int) -> TokenReading:
        """Return what collects the last positions of one forward pass.

        Args:
            batch: Rows.
            length: Positions per row.
            last: How many of them, at the end of each row.
        """
        return TokenReading(self._columns, batch, length, last)

    def likeness(self, reading: TokenReading) -> Tensor | None:
        """Return how much each position looks like each label `[batch, positions, labels]`.

        It is a cosine. `None` where layers could not be read, because they are compiled.
        """
        if set(reading.values) != set(self._columns):
            return None
        return self._likeness(torch.cat([reading.values[number] for number in self._columns], -1))

    def _likeness(self, values: Tensor) -> Tensor:
        apart = (values - self._centre.T) * self._weight.T
        return torch.nn.functional.normalize(apart, dim=-1) @ self._directions


class Reading:
    """The mean activations of one forward pass, per row of the batch."""

    def __init__(self, columns: dict[int, Tensor], counted: Tensor) -> None:
        self.counted = counted
        self.means: dict[int, Tensor] = {}
        self._columns = columns
        self._weight = counted / counted.sum(1, keepdim=True).clamp(min=1)

    def __call__(self, number: int, x: Tensor) -> None:
        """Take in what one layer does."""
        columns = self._columns.get(number)
        if columns is not None:
            batch, length = self.counted.shape
            here = x.reshape(batch, length, -1)[..., columns.to(x.device)].float().cpu()
            self.means[number] = torch.einsum("bl,bln->bn", self._weight, here)


class TokenReading:
    """The activations of the last positions of one forward pass."""

    def __init__(self, columns: dict[int, Tensor], batch: int, length: int, last: int) -> None:
        self.values: dict[int, Tensor] = {}
        self._columns = columns
        self._shape = (batch, length, -1)
        self._last = last

    def __call__(self, number: int, x: Tensor) -> None:
        """Take in what one layer does."""
        columns = self._columns.get(number)
        if columns is not None:
            here = x.reshape(self._shape)[:, -self._last :, columns.to(x.device)]
            self.values[number] = here.float().cpu()


def end_of_prompt(
    given: Mapping[str, Any], prompt: int | None = None, turn_ends: Collection[int] = ()
) -> tuple[dict[str, Tensor], Tensor] | None:
    """Return the end of a prompt as arguments of the decoder, and which positions count.

    Padding does not count, nor the first token: it holds outliers that say nothing of a language.
    Of a chat only the last turn counts: what a template adds is English, whatever is asked.

    Args:
        given: Arguments of the forward pass, or of `generate`.
        prompt: How many positions the prompt has; default: all that are given.
        turn_ends: Tokens that end a turn of a chat.
    """
    name = "inputs_embeds" if given.get("input_ids") is None else "input_ids"
    shown = given.get(name)
    if shown is None or not shown.shape[1]:
        return None
    length, mask = int(shown.shape[1]), given.get("attention_mask")
    end = min(prompt or length, length)
    real = torch.ones(shown.shape[0], end, dtype=torch.bool)
    if not (isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= length):
        mask = None
    if mask is not None:
        real = mask[:, -length:][:, :end].bool().cpu()
    counted = real
    if turn_ends and name == "input_ids":
        rows = zip(shown[:, :end].tolist(), real, strict=True)
        counted = torch.stack([_last_turn(ids, row, turn_ends) for ids, row in rows])
    # The last ones of each row, counted from behind.
    counted = counted & (counted.flip(1).cumsum(1).flip(1) <= TOKENS)
    columns = counted.any(0).nonzero()[:, 0]
    first, last = (int(columns[0]), int(columns[-1]) + 1) if len(columns) else (end - 1, end)
    found = {name: shown[:, first:last]}
    if mask is not None:
        found["attention_mask"] = mask[:, -length:][:, first:last]
    real, counted = real[:, first:last], counted[:, first:last]
    outlier = real & (real.cumsum(1) == 1)
    several = counted.sum(1, keepdim=True) > 1
    return found, counted & ~(outlier & several)


def _last_turn(ids: list[int], real: Tensor, turn_ends: Collection[int]) -> Tensor:
    """Return which positions of a row are its last turn; all, if there are no turns."""
    ends = [i for i, token in enumerate(ids) if token in turn_ends and bool(real[i])]
    if not ends or len(ids) - 1 - ends[-1] > _OPENING:
        start, end = ends[-1] + 1 if ends else 0, len(ids)  # an answer that has begun already
    else:
        start, end = ends[-2] + 1 if len(ends) > 1 else 0, ends[-1]
    turn = torch.zeros_like(real)
    turn[start:end] = real[start:end]
    return turn if bool(turn.any()) else real
