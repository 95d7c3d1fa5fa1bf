"""What one row of a batch does over its generated tokens, in table rows instead of labels.

A `Track` is a schedule whose labels have been replaced by row numbers of the steering tables, plus
the switches made while a generation is running. It is asked for runs of positions and is stateless
towards the model: the same tokens always give the same answer, which is what makes beams, rejected
drafts and recomputed prefixes come out right.
"""

from __future__ import annotations

import bisect
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import ScheduleError
from .schedule import Schedule
from .schedule_text import Condition

#: Maps `(label, strength)` to a row of the steering tables; row 0 leaves activations alone.
RowOf = Callable[["str | None", float], int]
#: `(first position, end position, table row)`.
Run = tuple[int, int, int]

_SENTENCE_END = re.compile(r"(?:[!?…。！？؟।]|(?<!\d)\.|\.(?=\s))[\"'”’»)\]」』]*\s*$")
_REMEMBERED = 4096


class Triggers:
    """Finds out at which token a schedule's text conditions were fulfilled.

    Results are remembered per token prefix, so each step of a generation looks at one new token.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: OrderedDict[tuple[Schedule, tuple[int, ...]], _Progress] = OrderedDict()

    def fired(self, schedule: Schedule, tokens: Sequence[int]) -> dict[int, int]:
        """Return position in `schedule.points` → generated token at which it fired."""
        ids = tuple(tokens)
        size = len(ids)
        progress = self._known.get((schedule, ids))
        # The usual case is one token more than last time; after a beam reorder or a rejected draft
        # a longer way back may be needed.
        while progress is None and size > 0:
            size -= 1
            progress = self._known.get((schedule, ids[:size]))
        if progress is None:
            progress = (0, 0, {})
        for count in range(size + 1, len(ids) + 1):
            progress = self._step(schedule, ids[:count], progress)
            self._known[(schedule, ids[:count])] = progress
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return progress[2]

    def _step(self, schedule: Schedule, ids: tuple[int, ...], progress: _Progress) -> _Progress:
        current, since, fired = progress
        token, points = len(ids), schedule.points
        due = [
            i
            for i, point in enumerate(points)
            if i > current and isinstance(point.at, int) and point.at <= token
        ]
        if due:  # a counted switch point overtakes conditions that were still waiting
            return due[-1], token, fired
        if current + 1 == len(points):
            return progress
        condition = points[current + 1].at
        if isinstance(condition, Condition) and token >= condition.after:
            text = self._tokenizer.decode(ids[since:], skip_special_tokens=False)
            hit = (
                condition.text in text
                if condition.kind == "text"
                else _SENTENCE_END.search(text) is not None
            )
            if hit:
                return current + 1, token, {**fired, current + 1: token}
        return progress


_Progress = tuple[int, int, dict[int, int]]


class _Leaf:
    """One schedule in table rows."""

    def __init__(self, schedule: Schedule, row_of: RowOf, triggers: Triggers | None) -> None:
        self.schedule = schedule
        self._row_of = row_of
        self._triggers = triggers
        if schedule.is_conditional and triggers is None:
            raise ScheduleError(
                f"The schedule {str(schedule)!r} waits for text, which needs a tokenizer: pass "
                "tokenizer=… to attach()."
            )
        for point in schedule.points:  # unknown labels are found now, not in mid-generation
            row_of(point.label, point.strength)
        self._starts, self._rows = self._compile(schedule.breakpoints())
        self.prompt_row = self._rows[0] if schedule.prompt else 0

    def _compile(
        self, breakpoints: Sequence[tuple[int, str | None, float]]
    ) -> tuple[list[int], list[int]]:
        starts = [start for start, _, _ in breakpoints]
        return starts, [self._row_of(label, strength) for _, label, strength in breakpoints]

    def steps(self, tokens: Sequence[int]) -> tuple[list[int], list[int]]:
        if not self.schedule.is_conditional:
            return self._starts, self._rows
        assert self._triggers is not None  # checked in __init__
        return self._compile(self.schedule.breakpoints(self._triggers.fired(self.schedule, tokens)))

    def runs(self, first: int, end: int, tokens: Sequence[int]) -> list[Run]:
        """Return the runs that cover generated tokens `first` … `end - 1`, all `>= 0`."""
        starts, rows = self.steps(tokens)
        period = self.schedule.repeat
        found: list[Run] = []
        at = first
        while at < end:
            inside = at % period if period else at
            i = bisect.bisect_right(starts, inside) - 1
            left = (starts[i + 1] if i + 1 < len(starts) else (period or end)) - inside
            stop = min(end, at + max(left, 1)) if (period or i + 1 < len(starts)) else end
            _extend(found, at, stop, rows[i])
            at = stop
        return found


class Track:
    """The table rows of one batch row over time: a schedule, and what replaced it on the way."""

    def __init__(self, schedule: Schedule, row_of: RowOf, triggers: Triggers | None) -> None:
        leaf = _Leaf(schedule, row_of, triggers)
        self._parts: list[tuple[int, _Leaf]] = [(0, leaf)]
        #: The one row that holds for prompt and output alike, or `None`.
        self.constant_row: int | None = None
        if schedule.is_constant and schedule.prompt:
            self.constant_row = leaf.prompt_row
        #: Whether answers depend on the generated text.
        self.needs_tokens = schedule.is_conditional

    @property
    def history(self) -> list[tuple[int, Schedule]]:
        """`(token, schedule)` pairs: what was in force from which generated token on."""
        return [(start, leaf.schedule) for start, leaf in self._parts]

    def switched(self, token: int, other: Track) -> Track:
        """Return this track up to `token`, and `other` from there on."""
        made = object.__new__(Track)
        kept = [part for part in self._parts if part[0] < token]
        made._parts = [*kept, (token if kept else 0, other._parts[0][1])]
        made.constant_row = None if kept else other.constant_row
        made.needs_tokens = other.needs_tokens or (bool(kept) and self.needs_tokens)
        return made

    def runs(self, first: int, end: int, tokens: Sequence[int] = ()) -> list[Run]:
        """Return the runs covering tokens `first` … `end - 1`; negative ones are the prompt."""
        found: list[Run] = []
        if first < 0:
            stop = min(end, 0)
            found.append((first, stop, self._parts[0][1].prompt_row))
        for i, (start, leaf) in enumerate(self._parts):
            until = self._parts[i + 1][0] if i + 1 < len(self._parts) else end
            low, high = max(first, start, 0), min(end, until)
            if low < high:
                for run in leaf.runs(low, high, tokens):
                    _extend(found, *run)
        return found


def _extend(runs: list[Run], first: int, end: int, row: int) -> None:
    if runs and runs[-1][2] == row and runs[-1][1] == first:
        runs[-1] = (runs[-1][0], end, row)
    else:
        runs.append((first, end, row))
