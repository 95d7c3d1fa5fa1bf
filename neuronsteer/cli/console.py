"""Where the command line writes: results on stdout, everything about the run on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ..stats.progress import Show

#: One colour per label, in the order of the labels; the model's own language stays uncoloured.
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")


def out() -> Console:
    """Return the console of stdout."""
    return Console(highlight=False)


def err() -> Console:
    """Return the console of stderr."""
    return Console(stderr=True, highlight=False)


def note(message: str, *, quiet: bool = False) -> None:
    """Tell the user something about the run, unless they asked for quiet."""
    if not quiet:
        err().print(message, style="dim", markup=False, soft_wrap=True)


@contextmanager
def working(what: str, *, quiet: bool = False) -> Generator[Show, None, None]:
    """Show on stderr that something long is going on, unless the user asked for quiet.

    Args:
        what: What it is, until the callback is called with more.
        quiet: Whether nothing is shown.
    """
    if quiet:
        yield lambda _what, _done, _detail: None
        return
    from ..stats.progress import shown_on_stderr

    with shown_on_stderr(what, stays=False) as show:
        yield show


def error(message: str, heading: str = "Error: ") -> None:
    """Write one error message to stderr, never broken into lines: it may hold a path."""
    err().print(heading + message, style="red", markup=False, soft_wrap=True)


def dump(value: object) -> None:
    """Write `value` to stdout as JSON."""
    # Text in many scripts is meant to be read; only a stdout that cannot encode it gets escapes.
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    typer.echo(json.dumps(value, ensure_ascii=not encoding.startswith("utf"), indent=2))


def colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for every label."""
    return {label: COLOURS[i % len(COLOURS)] for i, label in enumerate(labels)}


def coloured(console: Console) -> bool:
    """Whether colours reach the reader; if not, text has to say what a colour would."""
    shown = console.is_terminal and console.color_system is not None and not console.no_color
    return shown and not os.environ.get("NO_COLOR")


def first_line(error: BaseException) -> str:
    """Return the first non-empty line of an error's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
