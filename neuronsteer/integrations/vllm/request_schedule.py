"""What one request asks for, in the terms of the workers: plain numbers and keys of table rows.

The front end turns a request's schedule into a plan once, at admission, where a mistake can still
be answered with an error. Positions are counted from the start of the sequence, so that chunked
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
#: The key of the row that leaves activations alone.
IDENTITY = ""


@dataclass(frozen=True)
class Step:
    """From the generated token `start` on, the row `key` acts with `strength`.

    Attributes:
        start: Generated token.
        key: Content key of a table row, `IDENTITY` for none.
        strength: How much of it, see `Operation.blended`.
        ramp: Over how many tokens the strength grows; 1 is at once.
    """

    start: int
    key: str
    strength: float = 1.0
    ramp: int = 1


@dataclass(frozen=True)
class Plan:
    """The schedule of one request.

    Attributes:
        origin: Position whose output is generated token 0: the last one of the prompt.
        steps: What is in force, in the order of `start`, the first at token 0.
        repeat: Period in tokens, 0 for none.
        prompt: Whether positions before `origin` are steered, as token 0 is.
    """

    origin: int
    steps: tuple[Step, ...]
    repeat: int = 0
    prompt: bool = False

    @classmethod
    def of(
        cls, schedule: Schedule, key_of: Callable[[str, float], str], prompt_tokens: int
    ) -> Plan | None:
        """Return the plan of a request, or `None` if the schedule never steers.

        Args:
            schedule: What was asked for.
            key_of: Returns the row of a label, and raises if it cannot be had at this strength.
            prompt_tokens: Length of the prompt.

        Raises:
            ScheduleError: If the schedule cannot be served.
        """
        if schedule.is_conditional:
            raise ScheduleError(
                f"The schedule {str(schedule)!r} waits for text, which a server cannot do: its "
                "workers see no text. Use token counts, e.g. '24:fr', or send a second request "
                "that goes on from the text so far."
            )
        if len(schedule.points) > MAX_STEPS:
            raise ScheduleError(
                f"The schedule has {len(schedule.points)} switch points; a request may have "
                f"{MAX_STEPS}. Use repeat=, or send the rest as a second request."
            )
        steps: list[Step] = []
        for point in schedule.points:
            named = point.label is not None and point.strength != 0
            key = key_of(str(point.label), point.strength) if named else IDENTITY
            at = point.at if isinstance(point.at, int) else 0  # never a condition: refused above
            strength = point.strength if named else 1.0
            steps.append(Step(at, key, strength, max(point.ramp, 1) if named else 1))
        if all(step.key == IDENTITY for step in steps):
            return None
        plan = cls(max(prompt_tokens - 1, 0), tuple(steps), schedule.repeat or 0, schedule.prompt)
        # What holds everywhere needs no origin, and may then share cached prefixes of any length.
        return replace(plan, origin=0) if plan.constant else plan

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
        """What keeps cached prefixes apart: the rows' contents and where which one acts."""
        return hashlib.sha256(json.dumps(self.to_wire()).encode()).hexdigest()

    def to_wire(self) -> list[Any]:
        """Return plain data, which vLLM carries to the workers in `extra_args`."""
        steps = [[step.start, step.key, step.strength, step.ramp] for step in self.steps]
        return [self.origin, self.repeat, self.prompt, steps]

    @classmethod
    def from_wire(cls, data: Any) -> Plan:
        """Return the plan that `to_wire` wrote."""
        origin, repeat, prompt, steps = data
        return cls(origin, tuple(Step(*step) for step in steps), repeat, prompt)
