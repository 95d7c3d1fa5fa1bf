"""How far an evaluation is: a bar on stderr, or a call after every cell."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

#: Called with what is being measured, how many cells are done, and how many there are.
Progress = Callable[[str, int, int], None]
#: Called with what is being measured and how many cells were finished since.
Tell = Callable[[str, int], None]


@contextmanager
def reporting(progress: bool | Progress, total: int, done: int) -> Generator[Tell, None, None]:
    """Give what is to be called before and after every cell."""
    if callable(progress):
        count = done

        def call(what: str, more: int) -> None:
            nonlocal count
            count += more
            if more:
                progress(what, count, total)

        yield call
    elif not progress:
        yield lambda _what, _more: None
    else:
        with Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        ) as bar:
            task = bar.add_task("evaluate", total=total, completed=done)
            yield lambda what, more: bar.update(task, description=what, advance=more)
