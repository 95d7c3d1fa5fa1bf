"""Measurements that stand for a model: what is asked for is noted, numbers come from curves."""

from __future__ import annotations

import math

from neuronsteer.evaluation.tuning.budget import BudgetSpentError
from neuronsteer.evaluation.tuning.cells import Cell
from neuronsteer.evaluation.tuning.measurements import Setting
from neuronsteer.neuron_set import NeuronSet


class Curves:
    """Measurements of labels that begin to work at one strength and break down at another."""

    def __init__(
        self, limits: dict[str, tuple[float, float]], candidate: str = "", operation: str = "zero"
    ) -> None:
        self.limits = limits
        self.candidate = candidate
        count = len(limits)
        self.neurons = NeuronSet.from_rows(
            list(limits), range(count), [0] * count, range(count),
            site="mlp.neuron", num_layers=2, width=80, operation={"name": operation},
        )  # fmt: skip
        self.steps_left = -1
        self.generated: list[tuple[Setting, int]] = []
        self.compared: set[Setting] = set()
        self.retrieved: set[Setting] = set()

    def blocks(self, _label: str) -> list[list[int]]:
        return [list(range(8)), list(range(8, 16)), list(range(16, 32))]

    def reference_rows(self, _labels: list[str]) -> int:
        return 0

    def write_references(self, _labels: list[str]) -> None:
        pass

    def part(self, _share: float | None) -> NeuronSet:
        return self.neurons

    def generate(self, settings: list[Setting], block: int) -> None:
        if self.steps_left == 0:
            raise BudgetSpentError
        self.steps_left -= 1
        self.generated += [
            (each, block) for each in settings if (each, block) not in self.generated
        ]

    def compare_with_natural(self, settings: list[Setting], _block: int) -> None:
        self.compared |= set(settings)

    def retrieve(self, settings: list[Setting], _block: int) -> None:
        self.retrieved |= set(settings)

    def cell(self, setting: Setting) -> Cell | None:
        blocks = [b for each, b in self.generated if each == setting]
        if not blocks:
            return None
        works, breaks = self.limits[setting.label]
        s = setting.strength
        success = 1 / (1 + math.exp(-20 * (s - works) / works))
        whole = 1 / (1 + math.exp(20 * (s - breaks) / breaks))
        return Cell(
            setting.label,
            s,
            setting.share,
            sum(len(self.blocks("")[b]) for b in blocks),
            success,
            1 - success,
            distinct=0.1 + 0.9 * whole,
            natural=0.8 * whole if setting in self.compared else None,
            relevance=whole if setting in self.retrieved else None,
            candidate=self.candidate,
        )

    def strengths(self, label: str) -> set[float]:
        return {each.strength for each, _ in self.generated if each.label == label}
