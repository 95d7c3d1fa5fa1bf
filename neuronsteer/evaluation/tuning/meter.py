"""How far tuning is, as a share of what is expected in all."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from ...stats.progress import shown_on_stderr
from .budget import Budget
from .search import STAGES

#: Called with what is being done, the share of the work that is done, and a detail.
OnProgress = Callable[[str, float, str], None]
# How the work divides among the stages, as long as nothing is known about it.
_EXPECTED = dict(zip(STAGES, (0.35, 0.1, 0.15, 0.2, 0.2), strict=True))


class Meter:
    """Rows that are done, stage by stage, as a share of what is expected in all."""

    def __init__(self, show: OnProgress, limit: Budget) -> None:
        self._show, self._limit = show, limit
        self._stage, self._all, self._rows = STAGES[0], 1, 0
        self._candidate, self._before, self._candidates, self._shown = "", 0, 1, 0.0

    def candidate(self, name: str, before: int, count: int) -> None:
        """Note that the next stage is about this of `count` sets, after so many others."""
        self._candidate, self._before, self._candidates = name, before, count

    def stage(self, name: str, rows: int) -> None:
        """Note that a stage of so many rows begins."""
        self._stage, self._all, self._rows = name, max(rows, 1), 0
        self.rows("", 0)

    def rows(self, what: str, count: int) -> None:
        """Note that rows were finished."""
        self._rows += count
        earlier = sum(_EXPECTED[s] for s in STAGES[: STAGES.index(self._stage)])
        part = (self._before + min(self._rows / self._all, 1)) / self._candidates
        done = earlier + _EXPECTED[self._stage] * part
        if self._limit.seconds is not None:
            # Whichever ends it: the work or the budget.
            done = max(done, self._limit.elapsed / self._limit.seconds)
        self._shown = max(self._shown, min(done, 1.0))
        detail = ": ".join(part for part in (self._candidate, what) if part)
        self._show(f"tune · {self._stage}", self._shown, detail)


@contextmanager
def metered(progress: bool | OnProgress, limit: Budget) -> Generator[Meter, None, None]:
    """Return what to tell about the work, and show it.

    Args:
        progress: Show it on stderr, do nothing, or call this.
        limit: The budget, whose share that is spent is shown where it is the larger one.
    """
    if progress is False:
        yield Meter(lambda _what, _done, _detail: None, limit)
    elif callable(progress):
        yield Meter(progress, limit)
    else:
        with shown_on_stderr("tune") as show:
            yield Meter(show, limit)
