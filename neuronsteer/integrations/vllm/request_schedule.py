"""The schedule of one request as the workers need it: plain numbers and keys of table rows.

The front end resolves a request's schedule once, at admission, where a mistake can still be
answered with an error. Positions are counted from the start of the sequence, so that chunked
prefill, preemption with recomputation, cached prefixes and rejected drafts cannot shift a switch.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ...errors import ScheduleError
from ...steering.schedule import Condition, Schedule
from ...steering.tables import Beginning
from ...steering.timeline import last_label, leaving

#: Steps of one request at most: the width of a worker's table of requests.
MAX_STEPS = 32
#: Tokens are counted up to here: far beyond any text, and well within the workers' 64-bit integers.
TOKEN_LIMIT = 1 << 40
#: The key of the row that leaves activations alone.
IDENTITY = ""
#: Maps `(label, strength, the label before it, if any)` to the key of a row, how strongly it acts,
#: and how a switch to it begins; raises if this cannot be served.
RowOf = Callable[[str, float, tuple[str, ...]], tuple[str, float, "Beginning | None"]]


class _InForce(NamedTuple):
    """The label that acts, and the token up to which its switch is beginning."""

    label: str | None
    until: int


@dataclass(frozen=True)
class ScheduleStep:
    """From the generated token `start` on, the row `key` acts with `strength`.

    A ramp is one step: the workers compute the share of the strength from the position.

    Attributes:
        start: Generated token.
        key: Content key of a table row, `IDENTITY` for none.
        strength: How strongly it acts, see `Operation.blended`.
        ramp: Over how many tokens the strength grows; 1 is at once.
    """

    start: int
    key: str
    strength: float = 1.0
    ramp: int = 1


@dataclass(frozen=True)
class RequestSchedule:
    """The schedule of one request.

    Attributes:
        origin: Position whose output is generated token 0: the last one of the prompt.
        steps: What acts, in the order of `start`, the first at token 0.
        repeat: Period in tokens, 0 for none.
        prompt: Whether positions before `origin` are steered, as token 0 is.
        again: Generated token where what repeats begins: in the first round, the first label leaves
            something else than in those that follow.
    """

    origin: int
    steps: tuple[ScheduleStep, ...]
    repeat: int = 0
    prompt: bool = False
    again: int = 0

    @classmethod
    def of(cls, schedule: Schedule, row_of: RowOf, prompt_tokens: int) -> RequestSchedule | None:
        """Return the schedule of a request, or `None` if it never steers.

        Args:
            schedule: What the request asks for.
            row_of: Finds the rows.
            prompt_tokens: Length of the prompt.

        Raises:
            ScheduleError: If the schedule cannot be served.
        """
        if schedule.is_conditional:
            raise ScheduleError(
                f"The schedule {str(schedule)!r} waits for text, which a server cannot do: its "
                "workers see no text. Use token counts, e.g. '24:fr', or send a second request "
                "that continues the text so far."
            )
        # A worker could not store larger numbers, and an error there would stop the engine.
        counts = [schedule.repeat or 0]
        for point in schedule.points:
            counts += [point.ramp, point.at if isinstance(point.at, int) else 0]
        if max(counts) >= TOKEN_LIMIT:
            raise ScheduleError(
                f"The schedule counts to token {max(counts)}; a request can count to "
                f"{TOKEN_LIMIT - 1}, which no text reaches. Leave that part out."
            )
        points = schedule.points
        # The first label is no switch: nothing has been written before.
        first = points[0].label if points[0].strength else None
        steps, now = _steps(schedule, row_of, None, _InForce(first, 0))
        again = 0
        if schedule.repeat:
            # From the second round on, the first label follows the last one. What the rounds end
            # with is the same, so what comes before that is written out twice.
            later, _ = _steps(schedule, row_of, last_label(points), now)
            pairs = zip(reversed(steps), reversed(later), strict=False)
            same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            if same < max(len(steps), len(later)):
                again = steps[-same].start if same else schedule.repeat
                steps += [
                    replace(step, start=step.start + schedule.repeat)
                    for step in later[: len(later) - same]
                ]
        if len(steps) > MAX_STEPS:
            more = len(steps) - len(points)
            raise ScheduleError(
                f"The schedule has {len(points)} switch points"
                + (f" and takes {more} more steps, as they begin differently" if more else "")
                + f"; a request may have {MAX_STEPS}. Use repeat=, or send the rest as a second "
                "request."
            )
        if all(step.key == IDENTITY for step in steps):
            return None
        origin = max(prompt_tokens - 1, 0)
        found = cls(origin, tuple(steps), schedule.repeat or 0, schedule.prompt, again)
        # A constant schedule needs no origin, and can then share cached prefixes of any length.
        return replace(found, origin=0) if found.constant else found

    @property
    def constant(self) -> bool:
        """Whether every position is steered alike."""
        return self.prompt and len(self.steps) == 1 and self.steps[0].ramp == 1

    @property
    def keys(self) -> frozenset[str]:
        """The rows it needs."""
        return frozenset(step.key for step in self.steps if step.key != IDENTITY)

    @property
    def weighted(self) -> bool:
        """Whether some strength is not 1."""
        return any(step.strength != 1 or step.ramp > 1 for step in self.steps if step.key)

    @property
    def salt(self) -> str:
        """What keeps cached prefixes apart: the rows' contents and which one acts where."""
        return hashlib.sha256(json.dumps(self.to_wire()).encode()).hexdigest()

    def to_wire(self) -> list[Any]:
        """Return plain data, which vLLM carries to the workers in `extra_args`."""
        steps = [[step.start, step.key, step.strength, step.ramp] for step in self.steps]
        return [self.origin, self.repeat, self.prompt, self.again, steps]

    @classmethod
    def from_wire(cls, data: Any) -> RequestSchedule:
        """Return the schedule that `to_wire` wrote."""
        origin, repeat, prompt, again, steps = data
        return cls(origin, tuple(ScheduleStep(*step) for step in steps), repeat, prompt, again)


def _steps(
    schedule: Schedule, row_of: RowOf, left: str | None, now: _InForce
) -> tuple[list[ScheduleStep], _InForce]:
    """Return the steps of one round, and what it ends with; a `RowTimeline` does the same.

    Args:
        schedule: The schedule.
        row_of: Finds the rows.
        left: The label that the first one leaves.
        now: What is in force when the round begins.
    """
    points = schedule.points
    ends = [point.at for point in points[1:]] + [schedule.repeat or TOKEN_LIMIT]
    label, until = now
    steps: list[ScheduleStep] = []
    for (point, leaves), end in zip(leaving(points, (), left), ends, strict=True):
        key, strength, beginning = IDENTITY, 1.0, None
        if point.label is not None and point.strength != 0:
            key, strength, beginning = row_of(point.label, point.strength, leaves)
        at, stop = _token(point.at), _token(end)
        ramp = max(point.ramp, 1) if key else 1
        switched, label = label != (point.label if key else None), point.label if key else None
        if beginning is None or ramp > 1:
            until = at
        elif switched:
            until = at + beginning.tokens
        if beginning and at < until:
            steps.append(ScheduleStep(at, key, strength * beginning.strength))
        if max(at, until) < stop:
            steps.append(ScheduleStep(max(at, until), key, strength, ramp))
    return steps, _InForce(label, until - (schedule.repeat or 0))


def _token(at: int | Condition) -> int:
    return at if isinstance(at, int) else 0  # never a condition: refused above
