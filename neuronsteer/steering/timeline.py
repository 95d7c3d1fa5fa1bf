"""What one row of a batch does over its generated tokens: a schedule, in rows of the tables.

A `RowTimeline` is a schedule whose labels have been replaced by `Row`s, plus the switches made
while a generation is running. It is asked for spans of positions and knows nothing of the model:
the same tokens always give the same answer, which is what makes beams, rejected drafts and
recomputed prefixes come out right.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import ParameterError, ScheduleError
from .layer_hooks import MIXED, Plan, Span
from .schedule import Condition, Point, Schedule
from .schedule_text import target_label
from .tables import Row

#: Maps `(label, strength, labels that are left)` to a row of the tables; `None` leaves activations
#: alone.
RowOf = Callable[["str | None", float, tuple[str, ...]], "Row | None"]

_SENTENCE_END = re.compile(r"(?:[!?…。！？؟।]|(?<!\d)\.|\.(?=\s))[\"'”’»)\]」』]*\s*$")
# A character is spread over at most this many tokens; what is still unfinished then never ends.
_LONGEST_CHARACTER = 12
# How much of the text a condition looks back at, beside the text it waits for.
_LOOK_BACK = 64
_REMEMBERED = 64


@dataclass(frozen=True)
class _Progress:
    """How far the conditions of a schedule have come after some number of tokens.

    Attributes:
        point: The point in force.
        fired: Position in `schedule.points` → generated token at which it fired.
        start: First token that is decoded again, so that spaces between tokens come out right.
        shown: First token whose text is not in `tail` yet.
        tail: The end of the text since the last switch.
        seen: Whether the string that is waited for has come, but before it counts.
    """

    point: int = 0
    fired: tuple[tuple[int, int], ...] = ()
    start: int = 0
    shown: int = 0
    tail: str = ""
    seen: bool = False


@dataclass(eq=False)
class RowText:
    """The generated tokens of one row, and what is known of the text after each of them."""

    tokens: list[int] = field(default_factory=list)
    #: Per schedule (or whoever follows the text), how far it has come after 0, 1, 2, … tokens:
    #: after a rejected draft it goes back.
    progress: dict[Any, list[Any]] = field(default_factory=dict)
    _known: Tensor | None = None

    def common(self, ids: Tensor) -> int:
        """Return how many tokens at the start of `ids` are the same as those known."""
        known = self._known
        if known is None:
            return 0
        size = min(len(known), len(ids))
        same = known[:size] == ids[:size]
        return size if bool(same.all()) else int((~same).nonzero()[0])

    def follow(self, ids: Tensor) -> None:
        """Take `ids` for the tokens; what is known of an equal beginning is kept."""
        kept = self.common(ids)
        del self.tokens[kept:]
        self.tokens.extend(ids[kept:].tolist())
        for steps in self.progress.values():
            del steps[kept + 1 :]
        self._known = ids

    def copy(self) -> RowText:
        """Return what a beam takes over when it goes on from this row."""
        steps = {schedule: list(each) for schedule, each in self.progress.items()}
        return RowText(list(self.tokens), steps, self._known)


def follow_all(texts: list[RowText], ids: Tensor) -> list[RowText]:
    """Return the texts of all rows of `ids`; beams may have gone on from another row."""
    if len(texts) != ids.shape[0]:
        texts = [RowText() for _ in range(ids.shape[0])]
    found: list[RowText] = []
    for row, text in enumerate(texts):
        best, own = text, text.common(ids[row])
        if own < len(text.tokens) and len(texts) > 1:
            best = max(texts, key=lambda each: each.common(ids[row]))
            own = -1 if best is not text else own
        found.append(best.copy() if own < 0 else text)
    for row, text in enumerate(found):
        text.follow(ids[row])
    return found


class TextConditions:
    """Finds out at which token a schedule's text conditions were fulfilled.

    Every token is decoded once, together with the few before it that share its characters.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def fired(self, schedule: Schedule, text: RowText) -> dict[int, int]:
        """Return position in `schedule.points` → generated token at which it fired."""
        steps = text.progress.setdefault(schedule, [_Progress()])
        for count in range(len(steps), len(text.tokens) + 1):
            steps.append(self._step(schedule, text.tokens, count, steps[-1]))
        return dict(steps[len(text.tokens)].fired)

    def _step(
        self, schedule: Schedule, tokens: list[int], count: int, before: _Progress
    ) -> _Progress:
        points = schedule.points
        # A counted switch point overtakes conditions that were still waiting.
        counted = before.point
        for i in range(before.point + 1, len(points)):
            at = points[i].at
            if isinstance(at, int) and at <= count:
                counted = i
        if counted > before.point:
            return _Progress(counted, before.fired, count, count)
        condition = points[before.point + 1].at if before.point + 1 < len(points) else 0
        if not isinstance(condition, Condition):
            return before
        now, text = self._read(tokens, count, before)
        if condition.kind == "text":
            seen = before.seen or condition.text in text
        else:
            seen = _SENTENCE_END.search(text) is not None
        if seen and count >= condition.after:
            point = before.point + 1
            return _Progress(point, (*before.fired, (point, count)), count, count)
        kept = now.tail[-(len(condition.text) + _LOOK_BACK) :]
        return replace(now, tail=kept, seen=seen and condition.kind == "text")

    def _read(self, tokens: list[int], count: int, before: _Progress) -> tuple[_Progress, str]:
        """Add the text of token `count - 1`; the beginning of a character is left for later."""
        known = self._decode(tokens[before.start : before.shown])
        now = self._decode(tokens[before.start : count])
        text = before.tail + now[len(known) :]
        if now.endswith("\ufffd") and count - before.shown < _LONGEST_CHARACTER:
            return before, text.rstrip("\ufffd")
        return replace(before, start=before.shown, shown=count, tail=text), text

    def _decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False) if tokens else ""


class _Part:
    """One schedule in rows."""

    def __init__(
        self,
        schedule: Schedule,
        row_of: RowOf,
        conditions: TextConditions | None,
        left: tuple[str, ...],
    ) -> None:
        self.schedule = schedule
        self.conditions = conditions
        if schedule.is_conditional and conditions is None:
            raise ScheduleError(
                f"The schedule {str(schedule)!r} waits for text, which needs a tokenizer: pass "
                "tokenizer=… to attach()."
            )

        # Unknown labels are found now, not in mid-generation.
        def rows(left: tuple[str, ...], before: str | None) -> dict[Point, Row | None]:
            return {
                point: row_of(point.label, point.strength, leaves)
                for point, leaves in leaving(schedule.points, left, before)
            }

        self._rows = rows(left, None)
        # From the second round on, the first label leaves the last one.
        last = last_label(schedule.points) if schedule.repeat else None
        self._rows_again = rows(left, last) if last is not None else self._rows
        made = (*self._rows.values(), *self._rows_again.values())
        beginnings = [row.beginning for row in made if row is not None and row.beginning]
        #: For how many tokens a switch may still be beginning.
        self.look_back = max((each.tokens for each in beginnings), default=0)
        self._starts = schedule.started()
        first = schedule.points[0]
        self.prompt_row = self._rows[first] if schedule.prompt else None
        self.prompt_factor = first.share(0)

    def spans(self, first: int, end: int, text: RowText | None) -> list[Span]:
        """Return the spans that cover generated tokens `first` … `end - 1`, all `>= 0`."""
        started = self.started(text)
        times = [at for at, _ in started]
        period = self.schedule.repeat
        found: list[Span] = []
        at = first
        while at < end:
            inside = at % period if period else at
            i = bisect.bisect_right(times, inside) - 1
            start, point = started[i]
            factor = point.share(inside - start)
            if factor < 1:
                stop = at + 1
            else:
                limit = times[i + 1] if i + 1 < len(times) else (period or math.inf)
                stop = int(min(end, at + limit - inside))
            rows = self._rows if not period or at < period else self._rows_again
            _extend(found, at, stop, rows[point], factor)
            at = stop
        return found

    def started(self, text: RowText | None) -> list[tuple[int, Point]]:
        """Return when which point begins; those that still wait for text are left out."""
        fired = self.fired(text)
        return self.schedule.started(fired) if fired else self._starts

    def fired(self, text: RowText | None) -> dict[int, int]:
        """Return which points that waited for text have begun, and when."""
        if self.conditions is None or not self.schedule.is_conditional or text is None:
            return {}
        return self.conditions.fired(self.schedule, text)


class RowTimeline:
    """The rows of one batch row over time: a schedule, and what replaced it on the way.

    Args:
        schedule: The schedule.
        row_of: Finds its rows.
        conditions: Reads the text that a schedule waits for.
        left: What the first label leaves; every later one leaves the label before it.
    """

    def __init__(
        self,
        schedule: Schedule,
        row_of: RowOf,
        conditions: TextConditions | None,
        left: tuple[str, ...] = (),
    ) -> None:
        part = _Part(schedule, row_of, conditions, left)
        self._parts: list[tuple[int, _Part]] = [(0, part)]
        #: Whether one row holds for prompt and output alike, and which.
        self.is_constant = schedule.is_constant and schedule.prompt
        self.constant_row = part.prompt_row
        #: Whether answers depend on the generated text.
        self.needs_text = schedule.is_conditional
        self._look_back = part.look_back

    @property
    def history(self) -> list[tuple[int, Schedule]]:
        """`(token, schedule)` pairs: what was in force from which generated token on."""
        return [(start, part.schedule) for start, part in self._parts]

    def switched(self, token: int, other: RowTimeline) -> RowTimeline:
        """Return this timeline up to `token`, and `other` from there on."""
        made = object.__new__(RowTimeline)
        kept = [part for part in self._parts if part[0] < token]
        made._parts = [*kept, (token if kept else 0, other._parts[0][1])]
        made.is_constant = other.is_constant and not kept
        made.constant_row = other.constant_row
        made.needs_text = other.needs_text or (bool(kept) and self.needs_text)
        made._look_back = max(self._look_back, other._look_back)
        return made

    def spans(self, first: int, end: int, text: RowText | None = None) -> list[Span]:
        """Return the spans covering tokens `first` … `end - 1`; negative ones are the prompt."""
        if not self._look_back:
            return self._as_scheduled(first, end, text)
        start = max(first - self._look_back, 0) if first > 0 else first
        return _with_beginnings(self._as_scheduled(start, end, text), first)

    def _as_scheduled(self, first: int, end: int, text: RowText | None) -> list[Span]:
        found: list[Span] = []
        if first < 0:
            part = self._parts[0][1]
            found.append((first, min(end, 0), part.prompt_row, part.prompt_factor))
        for i, (start, part) in enumerate(self._parts):
            until = self._parts[i + 1][0] if i + 1 < len(self._parts) else end
            low, high = max(first, start, 0), min(end, until)
            if low < high:
                for span in part.spans(low, high, text):
                    _extend(found, *span)
        return found

    def label_before(self, token: int, text: RowText | None) -> str | None:
        """Return the last label that was in force before generated token `token`."""
        labels = [_label_of(row) for _, _, row, _ in self.spans(0, token, text) if row is not None]
        return labels[-1] if labels else None

    def flattened(self, tokens: int, text: RowText | None) -> Schedule:
        """Return one schedule for what was in force in the first `tokens` tokens, and is now."""
        if len(self._parts) == 1:
            return self._parts[0][1].schedule
        points: list[Point] = []
        for i, (start, part) in enumerate(self._parts):
            last = i + 1 == len(self._parts)
            end = max(tokens, start + 1) if last else self._parts[i + 1][0]
            points += _between(part.schedule, part.started(text), start, end)
            if last:
                points += _afterwards(part.schedule, part.fired(text), end)
        return Schedule(*_merged(points), prompt=self._parts[0][1].schedule.prompt)


def leaving(
    points: Sequence[Point], left: tuple[str, ...], before: str | None
) -> list[tuple[Point, tuple[str, ...]]]:
    """Return what each point leaves: the label before it, and `left` where there is none."""
    found: list[tuple[Point, tuple[str, ...]]] = []
    for point in points:
        label = None if point.label is None else target_label(point.label)
        if label is not None:
            if before not in (None, label):
                left = (str(before),)
            before = label
        found.append((point, left))
    return found


def last_label(points: Sequence[Point]) -> str | None:
    """Return the label that is in force at the end; `None` if there is none at all."""
    labels = [point.label for point in points if point.label is not None]
    return target_label(labels[-1]) if labels else None


def _between(
    schedule: Schedule, started: list[tuple[int, Point]], first: int, end: int
) -> list[Point]:
    """Return what `schedule` did from token `first` to `end`: repeats written out."""
    period = schedule.repeat or math.inf
    found: list[Point] = []
    round_start = int(first // period * period) if schedule.repeat else 0
    while round_start < end:
        for i, (at, point) in enumerate(started):
            start = round_start + at
            until = round_start + (started[i + 1][0] if i + 1 < len(started) else period)
            if start >= end or until <= first:
                continue
            if start >= first:
                found.append(Point(start, point.label, point.strength, point.ramp))
                continue
            # Entered on its way up: the steps that were taken, one by one.
            token = first
            while token < min(end, until) and point.share(token - start) < 1:
                found.append(Point(token, point.label, point.strength * point.share(token - start)))
                token += 1
            if token < min(end, until):
                found.append(Point(token, point.label, point.strength))
        round_start = int(min(end, round_start + period))
    return found


def _afterwards(schedule: Schedule, fired: dict[int, int], end: int) -> list[Point]:
    """Return the points of `schedule` that are still to come after token `end`."""
    if schedule.repeat is not None:
        return _between(schedule, schedule.started(), end, end + schedule.repeat)
    return [
        point
        for i, point in enumerate(schedule.points)
        if (point.at >= end if isinstance(point.at, int) else i not in fired)
    ]


def _merged(points: list[Point]) -> list[Point]:
    found: list[Point] = []
    for point in points:
        if found and found[-1].at == point.at:
            found.pop()
        found.append(point)
    return found


class Planner:
    """Makes plans; remembers index tensors, because decoding asks for the same ones again."""

    def __init__(self) -> None:
        self._known: dict[tuple[object, ...], Plan] = {}

    def plan(
        self,
        timelines: Sequence[RowTimeline],
        texts: Sequence[RowText],
        first: int,
        batch: int,
        length: int,
    ) -> Plan:
        """Return the plan for positions that predict tokens `first` … `first + length - 1`.

        Args:
            timelines: One for the whole batch, or one per row of the batch as it was given. Beams
                and returned sequences repeat each row in place, so they share its timeline.
            texts: The generated tokens per row now; empty where no timeline waits for text.
            first: Generated token that the first position predicts; negative in the prompt.
            batch: Rows now.
            length: Positions per row.
        """
        if len(timelines) == 1 and not timelines[0].needs_text:
            timeline = timelines[0]
            if timeline.is_constant:
                return constant(timeline.constant_row, batch, length)
            return _uniform(timeline.spans(first, first + length), first, batch, length)
        if batch % len(timelines):
            raise ParameterError(
                f"{len(timelines)} labels were given, one per row, but the batch has {batch} rows. "
                "Give one label, or as many as there are prompts."
            )
        if any(each.needs_text for each in timelines) and len(texts) != batch:
            raise ScheduleError(
                "A schedule that waits for text needs the token ids of the whole sequence, "
                "which this call does not have. Use model.generate() with input_ids."
            )
        repeat = batch // len(timelines)
        rows = [
            timelines[row // repeat].spans(first, first + length, texts[row] if texts else None)
            for row in range(batch)
        ]
        return self.per_row(rows, first, batch, length)

    def per_row(self, rows: list[list[Span]], first: int, batch: int, length: int) -> Plan:
        """Return the plan of a forward pass whose rows have these spans."""
        local = tuple(
            tuple((a - first, b - first, row.number if row else 0, f) for a, b, row, f in spans)
            for spans in rows
        )
        known = self._known.get((batch, length, local))
        if known is None:
            with torch.inference_mode(False):  # it may be used again where gradients are wanted
                index = torch.zeros(batch, length, dtype=torch.int64)
                factors = torch.ones(batch, length, 1)
            for row, spans in enumerate(local):
                for start, end, number, factor in spans:
                    index[row, start:end] = number
                    factors[row, start:end] = factor
            known = Plan(
                MIXED,
                index=index,
                factors=None if bool((factors == 1).all()) else factors,
                steered=int((index != 0).sum()),
            )
            if len(self._known) >= _REMEMBERED:
                self._known = {}
            self._known[batch, length, local] = known
        _, _, row, factor = rows[0][0]
        same = {(row, factor) for spans in rows for _, _, row, factor in spans}
        # A plan counts hits per forward pass; the index and its copies on devices are shared. The
        # index is kept where one row would do, so that compiled graphs always see one shape.
        return Plan(
            row if len(same) == 1 else MIXED,
            factor if len(same) == 1 else 1.0,
            batch,
            length,
            index=known.index,
            factors=known.factors,
            held=rows,
            steered=known.steered,
            copies=known.copies,
        )


def constant(row: Row | None, batch: int = 1, length: int = 1) -> Plan:
    """Return the plan that gives every position the same row."""
    return Plan(row, batch=batch, length=length, steered=batch * length if row else 0)


def _uniform(spans: list[Span], first: int, batch: int, length: int) -> Plan:
    if len(spans) == 1:
        _, _, row, factor = spans[0]
        return Plan(row, factor, batch, length, steered=batch * length if row else 0)
    local = [(start - first, end - first, row, factor) for start, end, row, factor in spans]
    steered = batch * sum(end - start for start, end, row, _ in local if row)
    return Plan(MIXED, 1.0, batch, length, spans=local, steered=steered)


def _with_beginnings(spans: list[Span], first: int) -> list[Span]:
    """Return the spans from token `first` on, in which switches begin as their rows say.

    All follows from when the label changes: it may be a schedule that says so, text that was
    waited for, or somebody who switches while the text is written.
    """
    found: list[Span] = []
    label = _label_of(spans[0][2])
    until, stronger = 0, 1.0
    for start, end, row, factor in spans:
        beginning = row.beginning if row is not None and factor == 1 else None
        changed, label = label != _label_of(row), _label_of(row)
        if beginning is None:
            until = 0
        elif changed and start > 0:
            until, stronger = start + beginning.tokens, beginning.strength
        middle = min(max(until, start), end)
        for a, b, f in ((start, middle, factor * stronger), (middle, end, factor)):
            if max(a, first) < b:
                _extend(found, max(a, first), b, row, f)
    return found


def _label_of(row: Row | None) -> str | None:
    return None if row is None or row.label is None else target_label(row.label)


def _extend(spans: list[Span], first: int, end: int, row: Row | None, factor: float) -> None:
    if spans and spans[-1][1] == first and spans[-1][2] is row and spans[-1][3] == factor:
        spans[-1] = (spans[-1][0], end, row, factor)
    else:
        spans.append((first, end, row, factor))
