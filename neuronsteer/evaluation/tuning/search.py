"""Which strengths are measured, from coarse to fine, and on how many prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..retrieval import CANDIDATES
from .cells import BROKEN, FLOOR, Cell, best, rank, steady
from .measurements import Measurements, Setting

#: Strengths of the first look.
GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
#: Strengths per label that are compared with natural text, and that are measured in full.
_COMPARED, _FINALISTS = 5, 2
#: Times that the neighbourhood of the best strength is halved.
_REFINEMENTS = 2
#: A better score by less than this is no reason to refine once more.
_GAIN = 0.01
#: A score that is behind by this much, on so many texts, does not catch up on more of them.
CLEAR = 0.2
_ENOUGH = 16
#: Strengths closer than this do not differ.
_CLOSEST = 0.04
#: Share of texts in the language of the prompt at which steering has not begun to work.
_STAYED = 0.75

#: Called with the name of a stage and its number of rows.
OnStage = Callable[[str, int], object]
COARSE, NATURAL, FINE, RELEVANCE, MORE = "coarse", "natural", "fine", "relevance", "more prompts"
STAGES: tuple[str, ...] = (COARSE, NATURAL, FINE, RELEVANCE, MORE)


@dataclass
class Search:
    """The search for the best strength of every label, with one set, at one share of its neurons.

    Attributes:
        measured: Measures, and keeps what was measured.
        labels: What is tuned.
        grid: Strengths of the first look.
        unbounded: Whether strengths beyond 1 mean something.
        share: Share of units per label; `None` is the whole set.
        on_stage: Called when a stage begins.
        settings: Everything that was asked for.
        left_after: The stage after which it was given up; `None` while it goes on.
    """

    measured: Measurements
    labels: Sequence[str]
    grid: Sequence[float] = GRID
    unbounded: bool = True
    share: float | None = None
    on_stage: OnStage = lambda _name, _rows: None
    settings: list[Setting] = field(default_factory=list[Setting])
    left_after: str | None = None

    def run(self, *stages: str) -> None:
        """Measure what these stages are about, by default all of them.

        Raises:
            BudgetSpentError: If there is no time left; what was measured is kept.
        """
        ways = (self._coarse, self._compare, self._refine, self._retrieve, self._more_prompts)
        for name, way in zip(STAGES, ways, strict=True):
            if name in (stages or STAGES):
                way()

    @property
    def name(self) -> str:
        """What tells the candidate from others; empty if there is only one."""
        share = "" if self.share is None else f"{self.share:.1%}"
        return " ".join(filter(None, [self.measured.candidate, share]))

    def cells(self, label: str | None = None) -> list[Cell]:
        """Return what was measured, in ascending strength; of one label, or of all."""
        labels = self.labels if label is None else [label]
        found = [
            cell
            for setting in dict.fromkeys(self.settings)
            if setting.label in labels and (cell := self.measured.cell(setting)) is not None
        ]
        return sorted(found, key=lambda cell: (self.labels.index(cell.label), cell.strength))

    def best(self, label: str) -> Cell | None:
        """Return the best cell of a label so far."""
        return best(self.cells(label))

    # --- stages ---------------------------------------------------------------------------------

    def _coarse(self) -> None:
        """Look at the grid, two strengths at a time, those closest to 1 first."""
        allowed = [s for s in self.grid if s <= 1 or self.unbounded]
        order = sorted(allowed, key=lambda s: (abs(math.log(s)), s))
        rows = len(allowed) * sum(len(self._block(label, 0)) for label in self.labels)
        self.on_stage(COARSE, rows + self.measured.reference_rows(self.labels))
        self.measured.write_references(self.labels)
        for begin in range(0, len(order), 2):
            self._texts(
                [
                    Setting(label, strength, self.share)
                    for label in self.labels
                    for strength in order[begin : begin + 2]
                    if self._worth_trying(label, strength)
                ]
            )

    def _compare(self) -> None:
        """Compare the leading strengths with the reference texts."""
        settings = [s for label in self.labels for s in self._leading(label, _COMPARED)]
        self.on_stage(NATURAL, sum(len(self._block(each.label, 0)) for each in settings))
        self.measured.compare_with_natural(settings, 0)

    def _refine(self) -> None:
        """Halve the way to the neighbours of the best strength, while that helps."""
        going = list(self.labels)
        for _ in range(_REFINEMENTS):
            before = {label: self.best(label) for label in going}
            new = [
                Setting(label, strength, self.share)
                for label in going
                for strength in self._between(label)
                if self._worth_trying(label, strength)
            ]
            if not new:
                return
            self.on_stage(FINE, 2 * sum(len(self._block(each.label, 0)) for each in new))
            self._texts(new)
            promising = [setting for setting in new if self._promising(setting)]
            self.measured.compare_with_natural(promising, 0)
            going = [label for label in going if _gained(before[label], self.best(label))]

    def _retrieve(self) -> None:
        """Look for the prompts of the two best."""
        finalists = [s for label in self.labels for s in self._leading(label, _FINALISTS)]
        self.on_stage(RELEVANCE, self._rows_in_full([0], texts=False))
        self.measured.compare_with_natural(finalists, 0)
        # One label after the other, so that those that are done are complete if time runs out.
        self.measured.retrieve(finalists, 0)

    def _more_prompts(self) -> None:
        """Measure the two best on more prompts, round by round, until one is clearly better."""
        rounds = max((len(self.measured.blocks(label)) for label in self.labels), default=0)
        self.on_stage(MORE, self._rows_in_full(range(1, rounds)))
        for block in range(1, rounds):
            settings = [
                setting
                for label in self.labels
                if self._block(label, block) and not self._decided(label)
                for setting in self._leading(label, _FINALISTS)
            ]
            if not settings:
                return
            self._texts(settings, block)
            self.measured.compare_with_natural(settings, block)
            self.measured.retrieve(settings, block)

    # --- decisions ------------------------------------------------------------------------------

    def _worth_trying(self, label: str, strength: float) -> bool:
        """Return whether a strength can be the best, for all that is known about others."""
        for cell in self.cells(label):
            if cell.strength == strength:
                return True
            broken = cell.distinct < BROKEN
            if cell.strength < strength and broken:
                return False  # more of it will not make whole what broke
            if cell.strength > strength and not broken and cell.stayed >= _STAYED:
                return False  # less of it will do even less
        return True

    def _leading(self, label: str, count: int) -> list[Setting]:
        cells = self.cells(label)
        first, middle = best(cells), steady(cells)
        if first is None or middle is None:
            return []
        # Those that are compared in full come first: the rest lost against them before.
        depth = first.depth
        order = sorted(cells, key=lambda cell: (cell.depth >= depth, rank(cell)), reverse=True)
        # The one in the middle will be taken if it is not worse in what is measured next.
        chosen = list({id(cell): cell for cell in (middle, first, *order)}.values())[:count]
        # Below the floor a strength cannot win against one above it.
        kept = [cell for cell in chosen if cell.success >= FLOOR or first.success < FLOOR]
        return [Setting(label, cell.strength, self.share) for cell in kept]

    def _between(self, label: str) -> list[float]:
        found = self.best(label)
        if found is None:
            return []
        here = found.strength
        tried = sorted({cell.strength for cell in self.cells(label)})
        below = max((s for s in tried if s < here), default=0.0)
        above = min((s for s in tried if s > here), default=None)
        new = [(below + here) / 2]
        if above is not None:
            new.append((here + above) / 2)
        elif self.unbounded and found.success < 1:
            new.append(here * 1.5)
        return [round(s, 3) for s in new if abs(s - here) >= _CLOSEST]

    def _promising(self, setting: Setting) -> bool:
        cell, first = self.measured.cell(setting), self.best(setting.label)
        if cell is None or first is None:
            return False
        # What the cheap numbers promise is an upper bound of the score.
        return (cell.success >= FLOOR or first.success < FLOOR) and cell.score >= first.score

    def _decided(self, label: str) -> bool:
        cells = [
            cell
            for setting in self._leading(label, _FINALISTS)
            if (cell := self.measured.cell(setting)) is not None
        ]
        if len(cells) < 2:
            return True
        first, second = sorted((cell.score for cell in cells), reverse=True)
        return first - second >= CLEAR and min(cell.texts for cell in cells) >= _ENOUGH

    # --- measuring ------------------------------------------------------------------------------

    def _texts(self, settings: Sequence[Setting], block: int = 0) -> None:
        self.settings += [each for each in settings if each not in self.settings]
        self.measured.generate(settings, block)

    def _rows_in_full(self, blocks: Iterable[int], *, texts: bool = True) -> int:
        """Return about how many rows it takes to measure the finalists in full."""
        rows = 0
        for block in blocks:
            prompts = [i for label in self.labels for i in self._block(label, block)]
            each = CANDIDATES + (2 if texts else 0)
            # Those of the unsteered texts come on top, once per prompt.
            rows += _FINALISTS * each * len(prompts) + each * len(set(prompts))
        return rows

    def _block(self, label: str, block: int) -> list[int]:
        blocks = self.measured.blocks(label)
        return blocks[block] if block < len(blocks) else []


def _gained(before: Cell | None, now: Cell | None) -> bool:
    if before is None or now is None:
        return now is not None
    if before.strength == now.strength:
        return False
    return (now.success >= FLOOR) > (before.success >= FLOOR) or now.score - before.score >= _GAIN
