"""Sampling whose random numbers belong to a prompt, whatever else is in the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import torch

#: Only so many of the likeliest tokens can be drawn.
TOP_K = 50


class PromptSeededSampling:
    """A logits processor that draws a token per row and leaves only that one possible.

    To be used with `do_sample=False`. Row `i` draws with numbers of its own seed, so that every
    strength continues a prompt with the same luck, and batches can be made up in any way. (The
    likeliest of `logits / temperature + Gumbel noise` is a draw from the distribution.) Only the
    `TOP_K` likeliest tokens get noise: drawing it for a whole vocabulary, row by row, takes longer
    than a small model takes for its token.

    Args:
        seeds: One per row of the batch.
        tokens: How many tokens will be drawn at most.
        temperature: Divides the logits; 0 takes the likeliest token.
        before: Called before every token.
    """

    def __init__(
        self,
        seeds: Sequence[str],
        tokens: int,
        temperature: float,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self._temperature = temperature
        self._before = before
        self._step = 0
        drawn = [torch.rand(tokens, TOP_K, generator=_generator(seed)) for seed in seeds]
        uniform = torch.stack(drawn).clamp(1e-9, 1 - 1e-7)
        self._noise = -(-uniform.log()).log()

    def __call__(self, _ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores in which one token per row is left."""
        self._before()
        if self._temperature == 0:
            return scores
        count = min(TOP_K, scores.shape[-1])
        likely, tokens = scores.float().topk(count, dim=-1)
        noise = self._noise[:, self._step, :count].to(scores.device)
        self._step += 1
        chosen = tokens.gather(-1, (likely / self._temperature + noise).argmax(-1, keepdim=True))
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen, 0.0)


def _generator(seed: str) -> torch.Generator:
    digest = hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
