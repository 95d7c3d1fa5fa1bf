"""Which label is active at which generated token.

Time is the index of the token that is being predicted: 0 is the first new token, whatever the
length of the prompt, the padding, the beams or the number of tokens a forward pass verifies at
once. A schedule is a value: it can be compared, stored in a neuron set, sent over HTTP, and written
in one line (`"en,24:fr,64:ja"`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from ..errors import ScheduleError
from .schedule_text import (
    Condition,
    Point,
    escape_label,
    is_arithmetic,
    parse,
    target_label,
    whole,
    write,
)

__all__ = ["Condition", "Point", "Schedule"]

PointLike = Point | str | None | tuple[Any, ...]


class Schedule:
    """Labels over generated tokens: constant, switches, windows, cycles, ramps, text triggers.

    Args:
        *points: The label at token 0, then `(token, label)` pairs, `Point`s, or pairs whose first
            element is a `Condition`.
        repeat: Start over every so many tokens.
        prompt: Whether the label at token 0 steers the prompt as well. The last prompt position is
            always steered, because it predicts the first new token. `None`: yes for a constant
            label, no otherwise.

    Example:
        >>> schedule = Schedule("en", (24, "fr"), (64, "ja"))
        >>> str(schedule), schedule.at(30)
        ('en,24:fr,64:ja', ('fr', 1.0))
    """

    __slots__ = ("_points", "_prompt", "_repeat", "is_conditional", "is_constant")

    #: Whether one label holds all the time at one strength.
    is_constant: bool
    #: Whether a switch waits for generated text (which needs a tokenizer).
    is_conditional: bool

    def __init__(
        self, *points: PointLike, repeat: int | None = None, prompt: bool | None = None
    ) -> None:
        made = [_point(point, first=i == 0) for i, point in enumerate(points)]
        if not made:
            raise ScheduleError("A schedule needs at least one label; found none.")
        if not isinstance(made[0].at, int) or made[0].at > 0:
            made.insert(0, Point(0, None))
        times = [point.at for point in made if isinstance(point.at, int)]
        if any(b <= a for a, b in zip(times, times[1:], strict=False)):
            raise ScheduleError(
                f"Switch points must be in strictly increasing order; found {times}."
            )
        if repeat is not None:
            repeat = whole(repeat, "The period of a schedule")
            if any(isinstance(point.at, Condition) for point in made):
                raise ScheduleError("A repeating schedule cannot wait for text; use token counts.")
            if repeat <= times[-1]:
                raise ScheduleError(
                    f"A schedule repeating every {repeat} tokens never reaches its switch point at "
                    f"{times[-1]}; choose a longer period."
                )
        if not isinstance(cast(object, prompt), (bool, type(None))):
            raise ScheduleError(f"'prompt' is true, false or not given; found {prompt!r}.")
        self._points = tuple(made)
        self.is_constant = len(made) == 1 and not made[0].ramp
        self.is_conditional = any(isinstance(point.at, Condition) for point in made)
        self._repeat = repeat
        self._prompt = prompt

    @property
    def points(self) -> tuple[Point, ...]:
        """The switch points, the first one at token 0."""
        return self._points

    @property
    def repeat(self) -> int | None:
        """The period in tokens, or `None`."""
        return self._repeat

    @property
    def prompt(self) -> bool:
        """Whether the prompt is steered too."""
        return self.is_constant if self._prompt is None else self._prompt

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that occur, in order of appearance."""
        return tuple(dict.fromkeys(p.label for p in self._points if p.label is not None))

    @classmethod
    def window(
        cls, label: str | None, start: int, stop: int, base: str | None = None, **options: Any
    ) -> Schedule:
        """Return the schedule "`label` from `start` to `stop`, `base` before and after"."""
        head = [] if start == 0 else [(0, base)]
        return cls(*head, (start, label), (stop, base), **options)

    @classmethod
    def cycle(cls, labels: Sequence[str | None], every: int, **options: Any) -> Schedule:
        """Return the schedule that goes round `labels`, `every` tokens each."""
        points = [(i * every, label) for i, label in enumerate(labels)]
        return cls(*points, repeat=len(labels) * every, **options)

    def subtract_previous(self, before: str | None = None) -> Schedule:
        """Return the schedule that also takes away, at each switch, the label before.

        A model that has written German goes on in German, and neurons that tell French from English
        say little about German: `"de,24:fr"` becomes `"de,24:fr - de"`. Sums stay as they are.

        Args:
            before: The label before the first one.
        """
        points: list[Point] = []
        before = None if before is None else target_label(before)
        for point in self._points:
            label = point.label
            if label is not None:
                if before not in (None, label) and not is_arithmetic(label):
                    label = f"{escape_label(label)} - {escape_label(str(before))}"
                before = target_label(label)
            points.append(dataclasses.replace(point, label=label))
        return Schedule(*points, repeat=self._repeat, prompt=self._prompt)

    def started(self, fired: Mapping[int, int] | None = None) -> list[tuple[int, Point]]:
        """Return `(token, point)` pairs: when which point begins, in order.

        Args:
            fired: For points that wait for text: position in `points` → token at which it fired.
                Points that have not fired are left out.
        """
        found: list[tuple[int, Point]] = []
        for i, point in enumerate(self._points):
            at = point.at if isinstance(point.at, int) else (fired or {}).get(i)
            if at is not None:
                found.append((at, point))
        return found

    def at(self, token: int, fired: Mapping[int, int] | None = None) -> tuple[str | None, float]:
        """Return `(label, strength)` for the generated token `token` (negative: the prompt)."""
        if token < 0 and not self.prompt:
            return None, 1.0
        token = max(token, 0) % self._repeat if self._repeat else max(token, 0)
        current: tuple[str | None, float] = (None, 1.0)
        for start, point in self.started(fired):
            if start > token:
                break
            current = (point.label, point.strength * point.share(token - start))
        return current

    def spans(
        self, tokens: int, fired: Mapping[int, int] | None = None
    ) -> list[tuple[int, int, str | None]]:
        """Return `(start, end, label)` runs that cover `tokens` generated tokens."""
        runs: list[tuple[int, int, str | None]] = []
        for token in range(tokens):
            label = self.at(token, fired)[0]
            if runs and runs[-1][2] == label:
                runs[-1] = (runs[-1][0], token + 1, label)
            else:
                runs.append((token, token + 1, label))
        return runs

    @property
    def last_switch(self) -> int:
        """The token before which the last switch cannot happen; 0 if there is none."""
        return max(_earliest(point) for point in self._points)

    def unreached(self, tokens: int) -> str:
        """Return a sentence on the switches that a text of `tokens` tokens ends before, or ""."""
        late = [point for point in self._points if _earliest(point) >= tokens]
        if not late:
            return ""
        names = ", ".join(f"{_earliest(point)} ({point.label or '-'})" for point in late)
        one = len(late) == 1
        return (
            f"The schedule's switch{'' if one else 'es'} at token{'' if one else 's'} {names} "
            f"{'is' if one else 'are'} never reached: there are at most {tokens} new tokens."
        )

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Return the schedule written as `text`; see `schedule_text.py` for the notation."""
        points, options = parse(text)
        return cls(*points, **options)

    def __str__(self) -> str:
        prompt = None if self.prompt == self.is_constant else self.prompt
        return write(self._points, self._repeat, prompt)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description that `from_dict` reads back."""
        points: list[dict[str, Any]] = []
        for point in self._points:
            entry: dict[str, Any] = {"label": point.label}
            if isinstance(point.at, Condition):
                entry["when"] = dataclasses.asdict(point.at)
            else:
                entry["at"] = point.at
            if point.strength != 1.0:
                entry["strength"] = point.strength
            if point.ramp:
                entry["ramp"] = point.ramp
            points.append(entry)
        found: dict[str, Any] = {"points": points}
        if self._repeat is not None:
            found["repeat"] = self._repeat
        if self._prompt is not None:
            found["prompt"] = self._prompt
        return found

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schedule:
        """Return the schedule that `to_dict` described."""
        try:
            entries: Iterable[Mapping[str, Any]] = data["points"]
            points = [
                Point(
                    Condition(**entry["when"]) if "when" in entry else entry["at"],
                    entry["label"],
                    entry.get("strength", 1.0),
                    entry.get("ramp", 0),
                )
                for entry in entries
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise ScheduleError(
                f"A stored schedule is malformed ({type(error).__name__}: {error}); expected "
                "{'points': [{'at': 0, 'label': …}, …]}."
            ) from error
        return cls(*points, repeat=data.get("repeat"), prompt=data.get("prompt"))

    def _key(self) -> tuple[Any, ...]:
        return (self._points, self._repeat, self.prompt)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"Schedule.parse({str(self)!r})"


def _earliest(point: Point) -> int:
    return point.at.after if isinstance(point.at, Condition) else point.at


def _point(point: PointLike, *, first: bool) -> Point:
    if isinstance(point, Point):
        return point
    if point is None or isinstance(point, str):
        if not first:
            raise ScheduleError(
                f"Only the first entry of a schedule may be a bare label; {point!r} needs a token, "
                f"as in (24, {point!r})."
            )
        return Point(0, point)
    if len(point) == 2:
        return Point(point[0], point[1])
    raise ScheduleError(
        f"Cannot read the schedule entry {point!r}: expected a label first, then (token, label) "
        "pairs, e.g. Schedule('en', (24, 'fr'))."
    )
