"""Reading every layer's hidden state as if it were the last one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError
from ..evaluation.metrics.scoring import TokenRow, forward
from ..models import inspect
from ..models.readonly_hooks import Callback, read_activations
from ._tokens import TokenTable
from ._unembedding import Unembed, unembedding

#: A tuned lens: `(hidden [positions, hidden], layer)` → what the last layer would have returned.
Lens = Callable[[Tensor, int], Tensor]

# Elements of logits in memory at a time.
_BLOCK = 2**24


@dataclasses.dataclass
class Reading:
    """What a lens read in the texts of one label, summed over positions.

    Attributes:
        mass: float64 `[layers, names]`: probability of the top tokens, by language.
        first: float64 `[layers, names]`: share of the likeliest token, by language.
        nll: float64 `[layers]`: nats of the next token of the text.
        agree: float64 `[layers]`: how often the likeliest token is that of the last layer.
        positions: Positions read.
    """

    mass: Tensor
    first: Tensor
    nll: Tensor
    agree: Tensor
    positions: int = 0


def read(
    model: Any,
    rows: Sequence[TokenRow],
    table: TokenTable,
    *,
    top: int | None,
    lens: Lens | Sequence[Callable[[Tensor], Tensor]] | None = None,
    batch_size: int = 8,
) -> Reading:
    """Return what every layer's hidden state says at the positions before each row's scored tokens.

    Args:
        model: A causal LM.
        rows: Token rows.
        table: Languages of the tokens.
        top: How many of the likeliest tokens count; `None` means all.
        lens: A function of hidden state and layer, or one function per layer (a tuned lens); the
            model's final norm and head come after it. The last layer is read without it.
        batch_size: Rows per forward pass.

    Raises:
        LayoutError: If the step from the last layer to the logits is not known.
    """
    anatomy = inspect(model)
    depth, names = anatomy.num_layers, len(table.names)
    if isinstance(lens, Sequence) and len(lens) not in (depth, depth - 1):
        raise ParameterError(
            f"The lens has {len(lens)} functions, but the model has {depth} layers; expected one "
            "per layer (that of the last one may be missing)."
        )
    found = Reading(
        torch.zeros(depth, names, dtype=torch.float64),
        torch.zeros(depth, names, dtype=torch.float64),
        torch.zeros(depth, dtype=torch.float64),
        torch.zeros(depth, dtype=torch.float64),
    )
    hidden_states: dict[int, Tensor] = {}
    entries: list[tuple[Any, Callback]] = [
        (point, _keeper(hidden_states, point.layer)) for point in anatomy.hook_points("resid")
    ]
    unembed: Unembed | None = None
    with read_activations(entries) as hooks:
        for chosen, logits in forward(model, rows, batch_size=batch_size, padding="right"):
            hooks.require_all()
            with torch.inference_mode():
                states = [_at(hidden_states[layer], rows, chosen) for layer in range(depth)]
                own = torch.cat(list(logits))
                targets = torch.cat([torch.tensor(rows[i].ids[rows[i].start :]) for i in chosen])
                if unembed is None:
                    unembed = unembedding(anatomy, states[-1], own.to(states[-1].device))
                for layer, state in enumerate(states):
                    moved = state if layer == depth - 1 else _through(lens, state, layer)
                    _add(found, layer, moved, unembed, own.argmax(-1), targets, table, top)
                found.positions += len(targets)
            hidden_states.clear()
    return found


def _keeper(hidden_states: dict[int, Tensor], layer: int) -> Callback:
    def keep(hidden: Tensor) -> None:
        hidden_states[layer] = hidden

    return keep


def _at(hidden: Tensor, rows: Sequence[TokenRow], chosen: Sequence[int]) -> Tensor:
    """Return the states before the scored tokens, in the order of the rows; padding is right."""
    if hidden.dim() == 2:
        hidden = hidden.view(len(chosen), -1, hidden.shape[-1])
    parts = [hidden[k, rows[i].start - 1 : len(rows[i].ids) - 1] for k, i in enumerate(chosen)]
    return torch.cat(parts)


def _through(
    lens: Lens | Sequence[Callable[[Tensor], Tensor]] | None, state: Tensor, layer: int
) -> Tensor:
    if lens is None:
        return state
    moved = lens[layer](state) if isinstance(lens, Sequence) else lens(state, layer)
    if moved.shape != state.shape:
        raise ParameterError(
            f"The lens returned {tuple(moved.shape)} for hidden states of {tuple(state.shape)} in "
            f"layer {layer}; the shape must not change."
        )
    return moved


def _add(
    found: Reading,
    layer: int,
    states: Tensor,
    unembed: Unembed,
    last: Tensor,
    targets: Tensor,
    table: TokenTable,
    top: int | None,
) -> None:
    size = len(table.shares)
    step = max(1, _BLOCK // size)
    for begin in range(0, len(states), step):
        here = slice(begin, begin + step)
        scores = unembed(states[here]).float()
        total = scores.logsumexp(-1)
        shares = table.shares.to(scores.device)
        wanted = targets[here].to(scores.device)
        said = scores.gather(-1, wanted[:, None])[:, 0]
        found.nll[layer] += (total - said).double().sum().cpu()
        if top is None or top >= scores.shape[-1]:
            best = scores.argmax(-1)
            mass = (scores - total[:, None]).exp() @ shares
        else:
            values, tokens = scores.topk(top, dim=-1)
            best = tokens[:, 0]
            weights = values.softmax(-1)  # of the top tokens only, so that they sum to 1
            mass = (weights[..., None] * shares[tokens]).sum(1)
        found.agree[layer] += (best == last[here].to(best.device)).double().sum().cpu()
        found.first[layer] += shares[best].double().sum(0).cpu()
        found.mass[layer] += mass.double().sum(0).cpu()
