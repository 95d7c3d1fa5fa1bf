"""How a projection's output becomes queries or keys: a norm per head, a rotation by position.

Families differ in both, and neither can be called from outside. But what went in and what came out
is seen, and a rotation that pairs coordinates follows from them: it is the same for every head and
text, and it is refused where it does not explain what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import LayoutError

_NORMS = {
    "attn.q": ("q_norm", "query_layernorm", "q_layernorm"),
    "attn.k": ("k_norm", "key_layernorm", "k_layernorm"),
}
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}

Norm = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Rotation:
    """What happens between a projection and the attention, in one layer.

    Attributes:
        before: The projection's output, `[texts, heads, length, size]`.
        norm: The norm of a head, if there is one.
        partner: For each coordinate the one it is rotated with; itself if it is not rotated.
        cosine: `[length, size]`: what is left of a coordinate.
        sine: `[length, size]`: what goes to its partner.
    """

    before: Tensor
    norm: Norm | None
    partner: Tensor
    cosine: Tensor
    sine: Tensor

    @classmethod
    def of(
        cls, module: Any, site: str, before: Tensor, after: Tensor, dtype: torch.dtype
    ) -> Rotation:
        """Return the rotation that turns `before` into `after`.

        Raises:
            LayoutError: If none does.
        """
        norm, worst = _norm(module, site, before.shape[-1]), float("inf")
        values = before if norm is None else norm(before)
        for first, second in _pairings(before.shape[-1]):
            found = _fit(before, norm, values, after, first, second)
            scale = after.abs().max().clamp(min=1e-12)
            worst = min(worst, float((found.rotated(values) - after).abs().max() / scale))
            if worst <= _TOLERANCE.get(dtype, 1e-3):
                return found
        raise LayoutError(
            f"{type(module).__name__} does something unknown to {site!r}: no norm "
            f"of each head and rotation of pairs explains it (relative error {worst:.1e}). Measure "
            f"'attn.v', 'attn.o' or 'mlp.neuron'."
        )

    def rotated(self, values: Tensor) -> Tensor:
        """Return values `[…, length, size]` after the rotation."""
        moved = torch.zeros_like(values)
        moved[..., self.partner] = values * self.sine
        return values * self.cosine + torch.where(self.partner == self._own, 0.0, moved)

    @property
    def _own(self) -> Tensor:
        return torch.arange(len(self.partner), device=self.partner.device)

    def without(self, head: int, units: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much a head's coordinates change when units of it are off.

        Returns:
            `[texts, units, length, n]`, and which `n` coordinates those are, `[units, n]`.
        """
        values = self.before[:, head]
        if self.norm is None:
            # Only the unit itself and the coordinate it is rotated into.
            one = values[..., units].transpose(1, 2)
            pair = torch.stack([one * self.cosine.T[units], one * self.sine.T[units]], dim=-1)
            pair[..., 1] = torch.where((self.partner[units] == units)[:, None], 0.0, pair[..., 1])
            return pair, torch.stack([units, self.partner[units]], dim=-1)
        gone = values[:, None].repeat(1, len(units), 1, 1)
        gone[:, torch.arange(len(units), device=units.device), :, units] = 0
        full = self.rotated(self.norm(values))[:, None]
        return full - self.rotated(self.norm(gone)), self._own.expand(len(units), -1)


def inner_products(change: Tensor, where: Tensor, other: Tensor) -> Tensor:
    """Return the inner products of changes with other vectors.

    Args:
        change: `[texts, units, length, n]`.
        where: The coordinates, `[units, n]`.
        other: `[texts, heads, length, size]`.

    Returns:
        `[texts, units, heads, length of the change, length of the other]`.
    """
    found = other[..., where].permute(0, 3, 1, 4, 2)
    return change[:, :, None] @ found


def _fit(
    before: Tensor, norm: Norm | None, values: Tensor, after: Tensor, first: Tensor, second: Tensor
) -> Rotation:
    size = values.shape[-1]
    x, y, u, v = values[..., first], values[..., second], after[..., first], after[..., second]
    # Least squares over texts and heads, which all share the rotation of a position.
    length = (x * x + y * y).sum((0, 1)).clamp(min=1e-30)
    cosine = values.new_ones(values.shape[2], size)
    sine = values.new_zeros(values.shape[2], size)
    c, s = (x * u + y * v).sum((0, 1)) / length, (x * v - y * u).sum((0, 1)) / length
    cosine[:, first], cosine[:, second] = c, c
    sine[:, first], sine[:, second] = s, -s
    partner = torch.arange(size, device=values.device)
    partner[first], partner[second] = second, first
    return Rotation(before, norm, partner, cosine, sine)


def _pairings(size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield pairs of coordinates: halves or neighbours, of all of a head or of its first part."""
    part = size
    while part >= 2 and part % 2 == 0:
        yield torch.arange(part // 2), torch.arange(part // 2, part)
        yield torch.arange(0, part, 2), torch.arange(1, part, 2)
        part //= 2
    for part in (size * 2 // 5 // 2 * 2, size * 3 // 4 // 2 * 2):
        if part >= 2:
            yield torch.arange(part // 2), torch.arange(part // 2, part)


def _norm(module: Any, site: str, size: int) -> Norm | None:
    for name in _NORMS[site]:
        norm: Any = getattr(module, name, None)
        if not isinstance(norm, nn.Module):
            continue
        weight = getattr(norm, "weight", None)
        if not isinstance(weight, Tensor) or weight.numel() != size:
            raise LayoutError(
                f"{type(module).__name__} normalises all heads of {site!r} together, so that a "
                f"unit changes every head. Measure 'attn.v', 'attn.o' or 'mlp.neuron'."
            )
        # Not norm(x): hooks that steer the model must not be measured with it.
        return _float(norm)
    return None


def _float(norm: nn.Module) -> Norm:
    dtype = next(norm.parameters()).dtype
    return lambda values: norm.forward(values.to(dtype)).float()
