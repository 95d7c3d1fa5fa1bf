"""Sampling that belongs to one generation, whatever else is generated at the same time."""

from __future__ import annotations

import math

import torch
from transformers import LogitsProcessor

from ..errors import ParameterError


class SeededSampling(LogitsProcessor):
    """Makes greedy decoding sample, with its own random numbers.

    `generate(do_sample=True)` draws from torch's one global generator, so that two generations at
    the same time change each other's text. Here the noise comes first: the likeliest token after
    Gumbel noise was added is a sample from the softmax. All rows of a batch get the same noise, so
    that rows under different steering differ by the steering only.

    Args:
        seed: Same seed, same text.
        temperature: 0 leaves the scores alone: greedy decoding.
        top_p: Sample among the likeliest tokens that have this probability together.

    Example:
        >>> from transformers import LogitsProcessorList
        >>> sampling = LogitsProcessorList([SeededSampling(7, temperature=0.6)])
        >>> model.generate(**inputs, do_sample=False, logits_processor=sampling)  # doctest: +SKIP
    """

    def __init__(self, seed: int, temperature: float = 1.0, top_p: float = 1.0) -> None:
        if not (math.isfinite(temperature) and temperature >= 0):
            raise ParameterError(f"temperature={temperature}: expected a number >= 0.")
        if not 0 < top_p <= 1:
            raise ParameterError(f"top_p={top_p}: expected a number above 0, up to 1.")
        self.temperature = temperature
        self.top_p = top_p
        # On the CPU, so that a seed means the same on every machine.
        self._noise = torch.Generator("cpu").manual_seed(seed)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return scores whose maximum is the sampled token."""
        if self.temperature == 0:
            return scores
        scores = scores.float() / self.temperature
        if self.top_p < 1:
            ordered, order = scores.sort(dim=-1, descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
            drop = (before >= self.top_p).scatter(-1, order, before >= self.top_p)
            scores = scores.masked_fill(drop, -math.inf)
        uniform = torch.rand(scores.shape[-1], generator=self._noise).clamp_(1e-20, 1 - 1e-7)
        return scores - torch.log(-torch.log(uniform)).to(scores.device)
