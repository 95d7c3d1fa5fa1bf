"""The schedule of one request as the workers need it: plain numbers and keys of table rows.

The front end resolves a request's schedule once, at admission, where a mistake can still be
answered with an error. Positions are counted from the start of the sequence, so that chunked
prefill, preemption with recomputation, cached prefixes and rejected drafts cannot shift a switch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...errors import ScheduleError
from ...steering.schedule import Schedule

#: Switch points of one request at most: the width of a worker's table of requests.
MAX_STEPS = 16
#: Tokens are counted up to here: far beyond any text, and well within the workers' 64-bit integers.
TOKEN_LIMIT = 1 << 40
#: The key of the row that leaves activations alone.
IDENTITY = ""


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
    """

    origin: int
    steps: tuple[ScheduleStep, ...]
    repeat: int = 0
    prompt: bool = False

    @classmethod
    def of(
        cls, schedule: Schedule, key_of: Callable[[str, float], str], prompt_tokens: int
    ) -> RequestSchedule | None:
        """Return the schedule of a request, or `None` if it never steers.

        Args:
            schedule: What the request asks for.
            key_of: Returns the row of a label; raises if this strength is not possible.
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
        if len(schedule.points) > MAX_STEPS:
            raise ScheduleError(
                f"The schedule has {len(schedule.points)} switch points; a request may have "
                f"{MAX_STEPS}. Use repeat=, or send the rest as a second request."
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
        steps: list[ScheduleStep] = []
        for point in schedule.points:
            named = point.label is not None and point.strength != 0
            key = key_of(str(point.label), point.strength) if named else IDENTITY
            at = point.at if isinstance(point.at, int) else 0  # never a condition: refused above
            strength = point.strength if named else 1.0
            steps.append(ScheduleStep(at, key, strength, max(point.ramp, 1) if named else 1))
        if all(step.key == IDENTITY for step in steps):
            return None
        origin = max(prompt_tokens - 1, 0)
        found = cls(origin, tuple(steps), schedule.repeat or 0, schedule.prompt)
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
        return [self.origin, self.repeat, self.prompt, steps]

    @classmethod
    def from_wire(cls, data: Any) -> RequestSchedule:
        """Return the schedule that `to_wire` wrote."""
        origin, repeat, prompt, steps = data
        return cls(origin, tuple(ScheduleStep(*step) for step in steps), repeat, prompt)
