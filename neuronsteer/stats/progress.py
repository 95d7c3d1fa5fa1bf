"""How far long work is: a bar on a terminal, a line now and then elsewhere, or a call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

#: Seconds between lines where stderr is not a terminal, as in a batch job.
INTERVAL = 30.0
#: Work that will take so many seconds says so once its first part is done.
LONG = 60.0
#: Called with what is being done, the share of the work that is done (`None` if the amount is
#: unknown), and a detail such as a count.
Show = Callable[[str, float | None, str], None]


@dataclass(frozen=True)
class Progress:
    """A moment of collecting statistics.

    Attributes:
        label: The label that is being collected.
        position: Its position, from 0.
        labels: Number of labels.
        tokens: Counted tokens so far in this run, all labels and processes (estimated from this
            process's share when there are several).
        seconds: Time since the run started (or was resumed).
        fraction: Share of the whole work that is done; `None` if the amount of text is unknown.
        batch_rows: Rows in the last batch.
    """

    label: str
    position: int
    labels: int
    tokens: int
    seconds: float
    fraction: float | None
    batch_rows: int

    @property
    def tokens_per_second(self) -> float:
        """Mean speed of this run."""
        return self.tokens / self.seconds if self.seconds > 0 else 0.0


#: What `collect(progress=)` calls after every batch.
OnProgress = Callable[[Progress], None]


@contextmanager
def reporting(progress: bool | OnProgress, first: bool) -> Generator[OnProgress, None, None]:
    """Return the callback to call after every batch of texts.

    Args:
        progress: Show it on stderr, do nothing, or call this.
        first: Whether this is the process that reports.
    """
    if not first or progress is False:
        yield lambda _event: None
    elif callable(progress):
        yield progress
    else:
        with shown_on_stderr("collect") as show:
            yield lambda event: show(
                f"{event.label} ({event.position + 1}/{event.labels})",
                event.fraction,
                f"{event.tokens:,} tokens, {event.tokens_per_second:,.0f}/s",
            )


@contextmanager
def shown_on_stderr(what: str, *, stays: bool = True) -> Generator[Show, None, None]:
    """Return a callback that shows progress: a bar on a terminal, else a line every `INTERVAL`.

    After the first part of long work, one line says how long all of it will take.

    Args:
        what: What is being done, until the first call says more.
        stays: Whether the bar is left on the terminal when the work is done.
    """
    console = Console(stderr=True)
    left = _Remaining()
    if console.is_terminal or console.is_jupyter:
        columns = [TextColumn(f"{{task.fields[{name}]}}") for name in ("share", "detail", "left")]
        with Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            *columns[:2],
            TimeElapsedColumn(),
            columns[2],
            console=console,
            transient=not stays,
        ) as bar:
            task = bar.add_task(what, total=None, share="", detail="", left="")

            def draw(what: str, done: float | None, detail: str) -> None:
                _announce(bar.console, left, done)
                bar.update(
                    task,
                    description=what,
                    total=None if done is None else 1.0,
                    completed=done or 0,
                    share=_percent(done),
                    detail=detail,
                    left=left(done),
                )

            yield draw
        return

    began = time.monotonic()
    last = [what]
    finished = threading.Event()

    def note(what: str, done: float | None, detail: str) -> None:
        _announce(console, left, done)
        parts = (what, _percent(done).strip(), detail, left(done))
        last[0] = "  ".join(part for part in parts if part)

    def write() -> None:
        # By a thread of its own: one batch may take longer than the interval.
        while not finished.wait(INTERVAL):
            line = f"{_clock(time.monotonic() - began)}  {last[0]}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    writer = threading.Thread(target=write, name="neuronsteer-progress", daemon=True)
    writer.start()
    try:
        yield note
    finally:
        finished.set()
        writer.join()


class _Remaining:
    """How long the rest will take, at the speed so far."""

    def __init__(self) -> None:
        self._start: tuple[float, float] | None = None
        self.announced = False

    def seconds(self, done: float | None) -> float | None:
        """Return how long, `None` as long as nothing was finished."""
        if done is None:
            return None
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        began, before = self._start
        # Measured from the first call: a resumed run did not start at nothing.
        return (now - began) * (1 - done) / (done - before) if done > before else None

    def __call__(self, done: float | None) -> str:
        seconds = self.seconds(done)
        return "" if seconds is None else f"{_clock(seconds)} left"


def _announce(console: Console, left: _Remaining, done: float | None) -> None:
    """Say once how long the work will take, if that is long."""
    seconds = left.seconds(done)
    if seconds is None or done is None or left.announced:
        return
    left.announced = True
    if seconds >= LONG:
        console.print(
            f"This will take about {_in_words(seconds)}, judging by the first {done:.1%}.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def _percent(done: float | None) -> str:
    return "" if done is None else f"{done:4.0%}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _in_words(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 2:
        return f"{seconds:.0f} seconds"
    return f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
