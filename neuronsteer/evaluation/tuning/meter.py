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

    def __init__(self, show: OnProgress, limit: Budget, searches: int) -> None:
        self._show, self._limit, self._searches = show, limit, searches
        self._stage, self._all, self._rows = "", 1, 0
        self._searched, self._shown = 0, 0.0

    def stage(self, name: str, rows: int) -> None:
        """Note that a stage of so many rows begins."""
        if name == STAGES[0] and self._stage:
            self._searched += 1
        self._stage, self._all, self._rows = name, max(rows, 1), 0
        self.rows("", 0)

    def rows(self, what: str, count: int) -> None:
        """Note that rows were finished."""
        self._rows += count
        earlier = sum(_EXPECTED[s] for s in STAGES[: STAGES.index(self._stage)])
        share = earlier + _EXPECTED[self._stage] * min(self._rows / self._all, 1)
        done = (self._searched + share) / self._searches
        if self._limit.seconds is not None:
            # Whichever ends it: the work or the budget.
            done = max(done, self._limit.elapsed / self._limit.seconds)
        self._shown = max(self._shown, min(done, 1.0))
        self._show(f"tune · {self._stage}", self._shown, what)


@contextmanager
def metered(
    progress: bool | OnProgress, limit: Budget, searches: int
) -> Generator[Meter, None, None]:
    """Return what to tell about the work, and show it.

    Args:
        progress: Show it on stderr, do nothing, or call this.
        limit: The budget, whose share that is spent is shown where it is the larger one.
        searches: How many searches there will be.
    """
    if progress is False:
        yield Meter(lambda _what, _done, _detail: None, limit, searches)
    elif callable(progress):
        yield Meter(progress, limit, searches)
    else:
        with shown_on_stderr("tune") as show:
            yield Meter(show, limit, searches)
