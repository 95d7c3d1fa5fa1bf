"""What the released code of the PLND paper computes in place of importance."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ...errors import HookError, LayoutError
from ...models import Anatomy, HookPoint
from ...models.readonly_hooks import Callback
from . import METERS, Meter, documents
from ._attention import Scores, watched
from ._heads import CHUNK, Heads, spread


@METERS.register("importance_released")
class ReleasedImportance(Meter):
    """The shortcuts of the released code, which rank units otherwise than their effect does.

    - `mlp.neuron`: the sum of |u|, the up projection's output, whatever gate and down projection.
    - `attn.q`, `attn.k`: the squared change of the attention weights when a coordinate's product of
      query and key is subtracted from the scores, which are scaled while the product is not.
    - `attn.v`: the sum of the sizes of what the heads pass on.

    One number per coordinate of the query heads; a unit of a shared key or value head gets the sum
    over the heads that share it. As for `importance`, queries are those of 12 tokens per document.
    """

    name = "importance_released"

    def __init__(self, anatomy: Anatomy, site: str) -> None:
        super().__init__(anatomy, site)
        self._calls = 0
        self._heads: dict[int, Heads] = {}
        if site in ("attn.q", "attn.k", "attn.v"):
            self._heads = {tap.layer: Heads.of(anatomy, tap) for tap in self.taps}
        elif site != "mlp.neuron" or not anatomy.gated:
            raise LayoutError(
                f"The released code of PLND has no measurement at {site!r} of "
                f"{anatomy.model_type!r}: it knows gated MLPs ('mlp.neuron'), 'attn.q', 'attn.k' "
                f"and 'attn.v'."
            )

    def entries(self) -> list[tuple[HookPoint, Callback]]:
        """Return taps on the up projection, or on what enters the attention's output projection."""
        if self.site == "mlp.neuron":
            return [(tap, self._sizes(tap.layer)) for tap in self.anatomy.up_hook_points()]
        if self.site != "attn.v":
            return []
        outputs = {tap.layer: tap for tap in self.anatomy.hook_points("attn.o")}
        found: list[tuple[HookPoint, Callback]] = []
        for layer, heads in self._heads.items():
            width = heads.groups * heads.repeats * heads.size
            tap = replace(outputs[layer], side="input", width=width, tensor_width=width)
            found.append((tap, self._sizes(layer)))
        return found

    def _sizes(self, layer: int) -> Callback:
        heads = self._heads.get(layer)

        def read(values: Tensor) -> None:
            shaped, weight = documents(values, self.current())
            sums = (shaped.abs() * weight[..., None]).sum(1)
            if heads is not None:
                sums = sums.unflatten(-1, (heads.groups, heads.repeats, heads.size)).sum(2)
            self.emit(layer, sums.flatten(1))

        return read

    @contextmanager
    def prepared(self) -> Generator[None, None, None]:
        """Let queries and keys be seen where they meet."""
        if self.site not in ("attn.q", "attn.k"):
            yield
            return
        calls = {heads.module: self._meeting(layer) for layer, heads in self._heads.items()}
        with watched(self.anatomy.root, calls):
            yield

    def _meeting(self, layer: int) -> Callable[[Scores], None]:
        heads = self._heads[layer]

        def see(scores: Scores) -> None:
            self._calls += 1
            current = self.current()
            weight = current.weight_on(scores.query.device)[: current.real]
            # [texts, groups, repeats, size]
            found = _changes(heads, scores, weight)
            if self.site == "attn.k":
                found = found.sum(2)
            self.emit(layer, found.flatten(1))

        return see

    def require(self) -> None:
        """Raise if the attention did not run where it can be seen."""
        if self.site in ("attn.q", "attn.k") and not self._calls:
            raise HookError(
                f"The attention of {self.anatomy.model_type!r} does not run through transformers' "
                f"attention interface, so that {self.site!r} cannot be measured. Measure 'attn.v' "
                f"or 'mlp.neuron'."
            )


@torch.no_grad()
def _changes(heads: Heads, scores: Scores, weight: Tensor) -> Tensor:
    texts, size = len(weight), scores.query.shape[-1]
    rows, share = spread(weight)
    text = torch.arange(texts, device=rows.device)[:, None]
    found = torch.empty(texts, heads.groups, heads.repeats, size, device=rows.device)
    for head in range(heads.groups * heads.repeats):
        group, one = divmod(head, heads.repeats)
        query = scores.query[:texts, head].float()[text, rows]
        key = scores.key[:texts, group].float()
        bias = scores.bias(texts, slice(head, head + 1))[text, 0, rows]
        raw = query @ key.transpose(-1, -2) * scores.scaling
        base = scores.weights(raw, bias)
        step = max(1, CHUNK // raw.numel())
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            # [texts, units, rows, length]
            product = (
                query[..., part].transpose(1, 2)[..., None]
                * key[..., part].transpose(1, 2)[:, :, None]
            )
            moved = scores.weights(raw[:, None] - product, bias[:, None]) - base[:, None]
            found[:, group, one, part] = (moved.square().sum(-1) * share[:, None]).sum(-1)
    return found
