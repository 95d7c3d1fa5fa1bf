"""How long tuning may take, and stopping in time."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable

from ...errors import ParameterError

#: Returns seconds; only differences matter.
Clock = Callable[[], float]
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([hms])")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0}


class BudgetSpentError(Exception):
    """There is no time for the next step. Caught by `tune`, which returns what it has."""


def seconds_of(budget: float | str | None) -> float | None:
    """Return a budget in seconds: `1200`, `"1200"`, `"20m"`, `"1h30m"`; `None` is no limit.

    Raises:
        ParameterError: If it cannot be read, or is not above 0.
    """
    if budget is None:
        return None
    seconds = math.nan
    if isinstance(budget, str):
        text = budget.strip().lower()
        parts = _PART.findall(text)
        if parts and not _PART.sub("", text).strip():
            seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
        else:
            with contextlib.suppress(ValueError):
                seconds = float(text)
    else:
        seconds = float(budget)
    if not 0 < seconds < math.inf:
        raise ParameterError(
            f"Cannot read the budget {budget!r}: expected a time above 0, as seconds or with a "
            "unit, such as 1200, '90s', '20m' or '1h30m'."
        )
    return seconds


class Budget:
    """A time limit that is looked at before every step of the work.

    Args:
        seconds: How long the work may take from now on; `None` is no limit.
        clock: What tells the time.
    """

    def __init__(self, seconds: float | None = None, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._began = clock()
        self._longest: dict[str, float] = {}
        self._before: tuple[str, float] | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._began

    def step(self, kind: str) -> None:
        """Note that a step of this kind begins.

        Raises:
            BudgetSpentError: If the time is over, or would be after a step that takes as long as
                the longest of its kind so far.
        """
        now = self.elapsed
        if self._before is not None:
            last, began = self._before
            self._longest[last] = max(self._longest.get(last, 0.0), now - began)
        self._before = (kind, now)
        expected = self._longest.get(kind, 0.0)
        if self.seconds is not None and now + expected >= self.seconds:
            raise BudgetSpentError
