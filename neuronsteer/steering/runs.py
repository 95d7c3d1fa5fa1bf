"""What a steerer was asked to do, and what it does in each generation that it takes part in."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import ParameterError
from .layer_hooks import CurrentPlan, Plan
from .timeline import Planner, RowText, RowTimeline, constant

#: The plan of whoever takes no part.
NOTHING = constant(None)


@dataclass(eq=False)
class Assignment:
    """What `Steerer.to()` asked for.

    Attributes:
        timelines: One for the whole batch, or one per row.
        per_row: Whether there is one per row.
        prompt_length: Where the prompt ends in direct calls, if the user said so.
    """

    timelines: list[RowTimeline]
    per_row: bool = False
    prompt_length: int | None = None
    #: The plan where one row holds everywhere, else `None`.
    everywhere: Plan | None = None

    def __post_init__(self) -> None:
        if not self.per_row and self.timelines[0].is_constant:
            self.everywhere = constant(self.timelines[0].constant_row)

    def check(self, batch: int | None) -> None:
        """Raise if there is one label per row but not as many as rows."""
        if self.per_row and batch is not None and len(self.timelines) != batch:
            raise ParameterError(
                f"{len(self.timelines)} labels were given, one per row, but the batch has {batch} "
                "rows. Give one label, or as many as there are prompts."
            )


@dataclass(eq=False)
class Generation:
    """One call of `generate`.

    Attributes:
        batch: Rows of the batch as given (before beams), once known.
        prompt: Columns of the prompt in the frame of `input_ids`.
        offset: Cached positions that lie before that frame.
        runs: One per steerer that takes part; fixed when the generation begins.
        token: The generated token that the next forward pass predicts last.
        tokens: Generated tokens that have been planned for; in the end those that were returned.
        prepared: A forward pass has been prepared and not yet run.
        counted: Forward passes are prepared, so that their tokens can be counted.
        locked: Whether compiled graphs are kept to this generation until it ends.
    """

    batch: int | None
    prompt: int | None
    offset: int
    runs: list[Run] = field(default_factory=list)
    token: int = 0
    tokens: int = 0
    prepared: bool = False
    counted: bool = False
    locked: bool = False


@dataclass(eq=False)
class Run:
    """What one steerer does in one generation, with every switch made on the way.

    Attributes:
        state: The steerer's.
        generation: The generation.
        assignment: The newest one that the timelines contain.
        timelines: One for the whole batch, or one per row.
        texts: The generated tokens per row, kept only for schedules that wait for text.
        sequences: The generated tokens that were returned, kept only for those, too.
        everywhere: The plan of this thread, where one row holds everywhere in this generation.
        wanted: Positions that should have been changed.
        hits: Layers changed over all forward passes.
    """

    state: SteererState
    generation: Generation
    assignment: Assignment
    timelines: list[RowTimeline]
    texts: list[RowText] = field(default_factory=list)
    sequences: Tensor | None = None
    everywhere: Plan | None = None
    wanted: int = 0
    hits: int = 0

    @property
    def tokens(self) -> int:
        """Generated tokens so far."""
        return self.generation.tokens

    def switch(self, assignment: Assignment, token: int) -> None:
        """Follow `assignment` from generated token `token` on."""
        old, new = self.timelines, assignment.timelines
        self.assignment = assignment
        self.timelines = [
            old[i % len(old)].switched(token, new[i % len(new)])
            for i in range(max(len(old), len(new)))
        ]

    def text(self, row: int) -> tuple[RowTimeline, RowText | None]:
        """Return the timeline and the text of one row of the batch as it was given."""
        timeline = self.timelines[row if len(self.timelines) > 1 else 0]
        if not timeline.needs_text:
            return timeline, None
        if self.sequences is None:
            each = max(1, len(self.texts) // (self.generation.batch or 1))
            return timeline, self.texts[row * each] if self.texts else RowText()
        each = max(1, len(self.sequences) // (self.generation.batch or 1))
        text = RowText()
        text.follow(self.sequences[row * each, : self.tokens])
        return timeline, text


class SteererState:
    """One steerer's part in the tracker.

    Args:
        current: What its hooks read.
        assignment: What to follow at first.
        private: Take part only in generations of its own.
    """

    def __init__(self, current: CurrentPlan, assignment: Assignment, private: bool) -> None:
        self.current = current
        self.assignment = assignment
        self.private = private
        self.last: Run | None = None
        self.generations = 0
        self.planner = Planner()
        self.running: dict[Generation, Run] = {}
        #: Where the prompt ended, per cache of a loop that calls the model itself.
        self.prompts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    @property
    def resting(self) -> Plan | None:
        """The plan for code that runs outside of any forward pass known; `None`: nobody knows."""
        return NOTHING if self.private else self.assignment.everywhere

    def newest(self) -> Run | None:
        """Return the generation that runs, the newest if there are several."""
        runs = tuple(self.running.values())
        return runs[-1] if runs else None
