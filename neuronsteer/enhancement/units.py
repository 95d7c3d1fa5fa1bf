"""Which rows and columns of which projections belong to the neurons of a set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import LayoutError, ParameterError
from ..models import Anatomy
from ..neuron_set import NeuronSet
from ..neuron_set.value_columns import MLP_SITES

ROWS, COLUMNS = "rows", "columns"
PARTS = ("gate", "up", "down")


@dataclass(frozen=True, eq=False)
class Units:
    """Some rows (outputs) or columns (inputs) of one projection.

    Attributes:
        path: Dotted path of the projection from the causal language model.
        kind: "rows" or "columns".
        index: Which ones, ascending.
    """

    path: str
    kind: str
    index: Tensor


def units(
    anatomy: Anatomy,
    sets: Sequence[NeuronSet],
    parts: Sequence[str],
    per_layer: int | None,
) -> list[Units]:
    """Return what belongs to the neurons of the sets, once per projection, in the model's order.

    Args:
        anatomy: The model.
        sets: Sets of any site whose units have weights of their own.
        parts: Of MLP neurons: rows of the gate, rows of the up projection, columns of the down
            projection.
        per_layer: Only the neurons of highest score, so many of each layer and set.

    Raises:
        LayoutError: If the neurons of a site have no rows or columns.
    """
    found: dict[tuple[str, str], list[Tensor]] = {}
    for neurons in sets:
        points = anatomy.hook_points("mlp.neuron" if neurons.site in MLP_SITES else neurons.site)
        neurons.check_model(
            anatomy.model_type, anatomy.num_layers, [point.width for point in points]
        )
        for layer in neurons.layer.unique().tolist():
            index = _best(neurons, layer, per_layer)
            for path, kind, chosen in _places(anatomy, neurons.site, layer, index, parts):
                found.setdefault((path, kind), []).append(chosen)
    if not found:
        raise ParameterError("There is nothing to train: the set has no neurons.")
    order = {name: place for place, (name, _) in enumerate(anatomy.root.named_modules())}
    merged = [Units(*key, torch.cat(parts).unique()) for key, parts in found.items()]
    return sorted(merged, key=lambda each: (order.get(each.path, 0), each.kind))


def _best(neurons: NeuronSet, layer: int, most: int | None) -> Tensor:
    here = neurons.layer == layer
    index, score = neurons.index[here], neurons.score[here]
    order = score.argsort(descending=True, stable=True)
    # A neuron of several labels counts once, with its best score.
    chosen = list(dict.fromkeys(index[order].tolist()))
    return torch.tensor(sorted(chosen[:most] if most is not None else chosen), dtype=torch.int64)


def _places(
    anatomy: Anatomy, site: str, layer: int, index: Tensor, parts: Sequence[str]
) -> list[tuple[str, str, Tensor]]:
    prefix = f"{anatomy.prefix}.{layer}"
    if site.startswith("attn."):
        point = next(each for each in anatomy.hook_points(site) if each.layer == layer)
        columns = torch.arange(point.tensor_width)
        if point.columns is not None:
            columns = columns[point.columns]
        return [(point.name, ROWS, columns[index])]
    if site not in MLP_SITES:
        raise LayoutError(
            f"Units at {site!r} have no weights of their own to train. Use a set at 'mlp.act', "
            f"'mlp.neuron', 'attn.q', 'attn.k', 'attn.v' or 'attn.o'."
        )
    point = next(each for each in anatomy.hook_points("mlp.neuron") if each.layer == layer)
    if point.experts is not None:
        raise LayoutError(
            f"{anatomy.model_type} is a mixture of experts, whose neurons are inside 3-D "
            f"parameters that cannot be trained row by row. Use a set at an attention site."
        )
    found: list[tuple[str, str, Tensor]] = []
    layout = anatomy.layout
    # A plain MLP has one projection in front of the activation; it counts as up and as gate.
    plain = layout.up is None
    for name, part in (("gate", layout.gate), ("up", layout.up)):
        wanted = name in parts or (plain and name == "gate" and "up" in parts)
        if part is None or not wanted:
            continue
        columns = part.columns(point.width)
        rows = torch.arange(part.tensor_width(point.width))
        rows = rows if columns is None else rows[columns]
        found.append((f"{prefix}.{part.path}", ROWS, rows[index]))
    if "down" in parts:
        found.append((f"{prefix}.{layout.down}", COLUMNS, index))
    return found
