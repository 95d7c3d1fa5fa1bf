"""What methods about directions in the residual stream share: which layers, which coordinates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..errors import StatsError
from ..models.layer_choice import Layers, chosen_layers
from . import AUTO

if TYPE_CHECKING:
    from ..stats import Stats

SITE = "resid"
#: A coordinate is massive if its mean size is this many times the median of its layer.
MASSIVE = 20.0
#: Steering leaves more of them alone: without these, as many texts of gemma-3-270m were in the
#: language as with all coordinates, and they repeated themselves less (all 132 pairs of twelve
#: languages; distinct n-grams .93, and .90).
LEFT_OUT = 5.0
#: Layers in which labels are apart by up to this share more than the least count as good ones. The
#: choice then depends least on which labels there are: of the 26 ways to take two or more of five
#: languages, 15 gave layer 9 of gemma-3-270m and 18 layer 9 of Qwen2.5-Coder-0.5B.
_TOLERANCE = 0.25


def massive_coordinates(mean: torch.Tensor, times: float = MASSIVE) -> torch.Tensor:
    """Return which coordinates are massive, a mask `[layers, width]`.

    A few coordinates of the residual stream are hundreds of times larger than all others, whatever
    the text. They say how large the state is, and nearly nothing about the language.

    Args:
        mean: Mean of every label, `[labels, layers, width]`.
        times: How many times the median of the layer their size must exceed; the size of a
            coordinate is the mean, over the labels, of the absolute value of its mean.
    """
    size = mean.double().abs().mean(0)
    median = size.median(1, keepdim=True).values
    # Where most coordinates are 0, every other one would be infinitely larger.
    return (size > times * median) & (median > 0)


def apartness(mean: torch.Tensor) -> torch.Tensor:
    """Return how far apart the labels are in every layer, as a share of the state's size.

    The root mean square distance of the labels' means from their common centre, divided by the mean
    length of the labels' means, both without the massive coordinates. Where there is nothing, it is
    infinite.

    Args:
        mean: Mean of every label, `[labels, layers, width]`.
    """
    kept = mean.double().masked_fill(massive_coordinates(mean), 0.0)
    distance = (kept - kept.mean(0)).square().sum(-1).mean(0).sqrt()
    length = kept.norm(dim=-1).mean(0)
    return torch.where(length > 0, distance / length, torch.inf)


def automatic_layer(mean: torch.Tensor) -> int:
    """Return the layer that the labels' means speak for.

    Languages are far apart where a model reads its input, and again where it writes its output; in
    between, what they have in common is largest. A direction that is added there still says which
    language is to be written, while what is to be written is not tied to words yet. So this is the
    layer in the middle of those in which labels are apart by at most a quarter more than the least:
    of an even number the lower one.

    Args:
        mean: Mean of every label, `[labels, layers, width]`.

    Raises:
        StatsError: If all means are 0.
    """
    apart = apartness(mean)
    least = apart.min()
    if not bool(least.isfinite()):
        raise StatsError("No layer can be chosen: every mean in these statistics is 0.")
    near = (apart <= (1 + _TOLERANCE) * least).nonzero()[:, 0]
    return int(near[(len(near) - 1) // 2])


def direction_layers(
    stats: Stats, layers: Layers, site: str, who: str
) -> tuple[list[int], dict[str, Any]]:
    """Return the layers that are meant, and what is worth keeping about their choice.

    Args:
        stats: Sums at `site`.
        layers: Layers; "auto" for the one that the means speak for.
        site: Where the directions are.
        who: What was given the layers, for messages.
    """
    total = len(stats.site_widths[site])
    if layers != AUTO:
        chosen = chosen_layers(layers, total, who)
        return chosen, {"layers": chosen}
    mean = stats.mean(site)
    chosen = [automatic_layer(mean)]
    apart = apartness(mean)
    return chosen, {
        "layers": chosen,
        # JSON has no infinity.
        "apart": [round(float(v), 4) if bool(v.isfinite()) else None for v in apart],
    }


def addition(factor: float | None, layers: list[int], site: str = SITE) -> dict[str, Any]:
    """Return the operation that adds differences of means in these layers.

    What is added to the residual stream in one layer is carried on to all later ones, and so is
    the difference itself: that of layer k contains those before it. Where it grows evenly, and
    `factor` times it is added in each of n layers, the state after the last of them has moved by
    (n + 1) / 2 times `factor` times the difference there. By default that is once the difference.
    """
    if factor is None:
        factor = 2 / (len(layers) + 1) if site == SITE else 1.0
    return {"name": "add", "value": "diffmean", "factor": factor}
