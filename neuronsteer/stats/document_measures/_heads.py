"""The heads of one attention layer, and what its output loses without one of their units."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...errors import LayoutError
from ...models import Anatomy, HookPoint
from ...models.modules import find, in_size
from ..weight_norms import images
from ._attention import AttentionInputs
from ._rotation import Rotation, inner_products

# Attention weights in one chunk, to fit into a core's cache, and tokens per document.
_CHUNK = 2**20
_ROWS = 12


@dataclass(frozen=True, eq=False)
class Heads:
    """How one layer's heads are laid out.

    Attributes:
        module: The attention module.
        groups: Key and value heads.
        repeats: Query heads per key and value head.
        size: Coordinates of a head's values.
        shared: Inner products of the images in the output that a value unit has in the heads of
            its group, `[groups, size, repeats, repeats]`.
        roots: `[groups, repeats, size, n]`: rows with the inner products of the images of what one
            query unit (one key unit) can change, so that lengths in the output can be taken in few
            dimensions instead of all of its.
    """

    module: nn.Module
    groups: int
    repeats: int
    size: int
    shared: Tensor
    roots: Tensor

    @classmethod
    def of(cls, anatomy: Anatomy, point: HookPoint) -> Heads:
        """Return the heads of a hook point's layer.

        Raises:
            LayoutError: If the projections do not fit the number of heads.
        """
        attention = anatomy.layout.attention
        path = "" if attention is None else attention.q.rpartition(".")[0]
        module = find(anatomy.layers[point.layer], path)
        count = getattr(anatomy.config, "num_attention_heads", None)
        values, outputs = (
            next(each for each in anatomy.hook_points(site) if each.layer == point.layer)
            for site in ("attn.v", "attn.o")
        )
        total = in_size(outputs.module)
        size = total // count if isinstance(count, int) and total and total % count == 0 else 0
        groups = values.width // size if size and values.width % size == 0 else 0
        if module is None or not groups or not count or count % groups:
            raise LayoutError(
                f"The heads of {point.name!r} are not known: {count} heads, {total} inputs of the "
                f"output projection and {values.width} values. Measure 'mlp.neuron' instead."
            )
        repeats = count // groups
        found = images(outputs, size * count, anatomy.root.dtype)
        grouped = found.reshape(groups, repeats, size, -1)
        shared = torch.einsum("grdo,gsdo->gdrs", grouped, grouped)
        # A query unit acts in one head, a key unit in all heads of its group.
        per_head = point.site == "attn.q"
        parts = grouped.flatten(0, 1) if per_head else grouped.flatten(1, 2)
        roots = _roots(parts).view(groups, repeats, size, -1)
        return cls(module, groups, repeats, size, shared, roots)


def _roots(images: Tensor) -> Tensor:
    """Return rows with the inner products of those of `[parts, n, hidden]`, `[parts, n, n]`."""
    wide = images.double()
    values, vectors = torch.linalg.eigh(wide @ wide.transpose(-1, -2))
    return (vectors * values.clamp(min=0).sqrt()[:, None]).float()


@torch.no_grad()
def change_without_units(
    site: str, heads: Heads, values: Tensor, inputs: AttentionInputs, weight: Tensor
) -> Tensor:
    """Return how far the output moves when each query or key unit is off, `[texts, width]`.

    The attention is computed again without each unit, which for every token of a long document
    would take many times as long as the model itself. So it is done for 12 of the counted tokens,
    spread evenly over the document (for all of them if there are no more), and scaled up.

    Args:
        site: `attn.q` or `attn.k`.
        heads: The layer's heads.
        values: What the projection gave, `[texts, length, width]` float32.
        inputs: What the attention was called with.
        weight: `[texts, length]`, 1 for tokens that count.
    """
    texts = len(weight)
    mine = inputs.query if site == "attn.q" else inputs.key
    size, dtype = mine.shape[-1], mine.dtype
    before = values.unflatten(-1, (-1, size)).transpose(1, 2)
    rotation = Rotation.of(heads.module, site, before, mine[:texts].float(), dtype)
    found = torch.empty(texts, values.shape[-1], device=values.device)
    roots = heads.roots.to(values.device)
    rows, share = _sampled(weight)
    text = torch.arange(texts, device=rows.device)[:, None]
    for group in range(heads.groups):
        part = slice(group * heads.repeats, (group + 1) * heads.repeats)
        query = inputs.query[:texts, part].float()[text, :, rows].transpose(1, 2)
        key, value = (each[:texts, group, None].float() for each in (inputs.key, inputs.value))
        # [texts, repeats, rows, length]
        raw = query @ key.transpose(-1, -2) * inputs.scaling
        bias = inputs.bias(texts, part)[text, :, rows].transpose(1, 2)
        handed_on = value @ roots[group]
        base = inputs.weights(raw, bias) @ handed_on
        for head in range(part.start, part.stop) if site == "attn.q" else (group,):
            one = head - part.start
            acting = slice(one, one + 1) if site == "attn.q" else slice(None)
            mask = bias[:, None, acting if bias.shape[1] > 1 else slice(None)]
            step = max(1, _CHUNK // raw[:, acting].numel())
            for start in range(0, size, step):
                units = torch.arange(start, min(start + step, size), device=values.device)
                change, where = rotation.without(head, units)
                if site == "attn.q":
                    product = inner_products(change[text, :, rows].transpose(1, 2), where, key)
                else:
                    product = inner_products(change, where, query[:, acting]).transpose(-1, -2)
                # [texts, units, heads, rows, length]
                weights = inputs.weights(raw[:, None, acting] - inputs.scaling * product, mask)
                moved = (weights @ handed_on[:, None, acting] - base[:, None, acting]).sum(2)
                square = (moved.square().sum(-1) * share[:, None]).sum(-1)
                found[:, head * size + start : head * size + start + len(units)] = square.sqrt()
    return found


@torch.no_grad()
def weight_changes(heads: Heads, inputs: AttentionInputs, weight: Tensor) -> Tensor:
    """Return by how much the attention weights change without a product of query and key.

    The squared change, `[texts, groups, repeats, size]`: for each coordinate of the query heads, as
    the released code of the PLND paper has it, and of 12 tokens as in `change_without_units`.
    """
    texts, size = len(weight), inputs.query.shape[-1]
    rows, share = _sampled(weight)
    text = torch.arange(texts, device=rows.device)[:, None]
    found = torch.empty(texts, heads.groups, heads.repeats, size, device=rows.device)
    for head in range(heads.groups * heads.repeats):
        group, one = divmod(head, heads.repeats)
        query = inputs.query[:texts, head].float()[text, rows]
        key = inputs.key[:texts, group].float()
        bias = inputs.bias(texts, slice(head, head + 1))[text, 0, rows]
        raw = query @ key.transpose(-1, -2) * inputs.scaling
        base = inputs.weights(raw, bias)
        step = max(1, _CHUNK // raw.numel())
        for start in range(0, size, step):
            part = slice(start, min(start + step, size))
            # [texts, units, rows, length]
            product = (
                query[..., part].transpose(1, 2)[..., None]
                * key[..., part].transpose(1, 2)[:, :, None]
            )
            moved = inputs.weights(raw[:, None] - product, bias[:, None]) - base[:, None]
            found[:, group, one, part] = (moved.square().sum(-1) * share[:, None]).sum(-1)
    return found


def _sampled(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return positions `[texts, n]` of counted tokens, and how many tokens each stands for."""
    counts = (weight > 0).sum(1, keepdim=True)
    most = min(_ROWS, max(1, int(counts.max())))
    nth_part = torch.arange(most, device=weight.device)
    # The middle of each of `most` equal parts; where there are fewer tokens, each one once.
    nth = torch.where(counts > most, (2 * nth_part + 1) * counts // (2 * most), nth_part)
    # A stable sort puts the counted positions in front, in order.
    order = (weight <= 0).to(torch.int8).argsort(dim=1, stable=True)
    rows = order.gather(1, nth.clamp(max=weight.shape[1] - 1))
    share = torch.where(nth < counts, (counts / most).clamp(min=1.0), 0.0)
    return rows, share
