"""How far collecting is: one event per batch, drawn as a bar on stderr or handed to a callable."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar


@dataclass(frozen=True)
class Progress:
    """A moment of a run.

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


Report = Callable[[Progress], None]


@contextmanager
def reporting(progress: bool | Report, first: bool) -> Generator[Report, None, None]:
    """Give what is to be called after every batch.

    Args:
        progress: Draw a bar, do nothing, or call this.
        first: Whether this is the process that reports.
    """
    if not first or progress is False:
        yield _ignore
    elif callable(progress):
        yield progress
    else:
        with _bar() as bar:
            yield _Drawer(bar)


def _bar() -> Bar:
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[share]}"),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=False,
    )


def _ignore(_event: Progress) -> None:
    pass


class _Drawer:
    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._task = bar.add_task("collect", total=None, share="", speed="", left="")
        self._start: tuple[float, float] | None = None

    def __call__(self, event: Progress) -> None:
        done = event.fraction
        left = ""
        if done is not None:
            now = time.monotonic()
            if self._start is None:
                self._start = (now, done)
            elif done > self._start[1]:
                # Measured from the first event: a resumed run did not start at nothing.
                began, before = self._start
                left = f"{_clock((now - began) * (1 - done) / (done - before))} left"
        self._bar.update(
            self._task,
            description=f"{event.label} ({event.position + 1}/{event.labels})",
            total=None if done is None else 1.0,
            completed=done or 0,
            share="" if done is None else f"{done:4.0%}",
            speed=f"{event.tokens:,} tokens, {event.tokens_per_second:,.0f}/s",
            left=left,
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
