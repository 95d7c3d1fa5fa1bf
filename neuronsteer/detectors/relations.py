"""Relation neurons: average precision with relations as labels."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from . import DETECTORS
from .average_precision import AveragePrecision


@DETECTORS.register("relations")
@dataclasses.dataclass(frozen=True)
class Relations(AveragePrecision):
    """Neurons that tell the prompts of one relation ("capital of") from those of the others.

    `average_precision` with the budget of the paper, and switching off as the default operation:
    the question there is which facts a model no longer recalls, within the relation and in others.
    Collect with the relations as labels and one prompt per text.

    Args:
        per_label: How many best neurons, and how many worst, for every relation.
        which: "top", "bottom" or "both".
        site: Where the responses were collected.

    Paper: Liu et al. (2025), "On Relation-Specific Neurons in Large Language Models". The code was
    not available: the budget is that of its README's command (6,000 in all), the sites are the FFN
    neurons that the paper counts rather than all linear outputs of the code it was forked from.
    """

    name: ClassVar[str] = "relations"
    paper: ClassVar[str] = "Liu et al. 2025, Relation-Specific Neurons (arXiv:2502.17355)"
    granularity: ClassVar[str] = "neuron"
    operation: ClassVar[dict[str, str]] = {"name": "zero"}

    per_label: int = 3000
