"""Experiment trackers: where the numbers of evaluations and tuning go while they run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, Protocol

from ..errors import ParameterError, did_you_mean, require

#: Trackers with the calls of wandb: `init`, and a run's `log` and `finish`.
TRACKERS = ("trackio", "wandb")
_PROJECT = "neuronsteer"

#: Called with numbers, and with words that say what they are about.
Log = Callable[[Mapping[str, Any]], object]


class RunLog(Protocol):
    """A run of a tracker, begun by the caller, who also ends it."""

    def log(self, numbers: dict[str, Any], /) -> object:
        """Keep numbers that belong together."""
        ...


def check_log(to: str | RunLog | None) -> None:
    """Raise before any work if nothing could be logged.

    Raises:
        ParameterError: If it is no tracker that is known.
        MissingExtraError: If the tracker is not installed.
    """
    if isinstance(to, str):
        if to not in TRACKERS:
            raise ParameterError(
                f"Unknown tracker {to!r}; expected {' or '.join(TRACKERS)}, or in Python a run "
                "with log()." + did_you_mean(to, TRACKERS)
            )
        require(to, to, f"Logging to {to}")
    elif to is not None and not callable(getattr(to, "log", None)):
        raise ParameterError(
            f"log is of type {type(to).__name__}; expected {' or '.join(TRACKERS)}, or a run "
            "with log()."
        )


@contextmanager
def logged_run(
    to: str | RunLog | None, job: str, settings: Mapping[str, Any]
) -> Generator[Log, None, None]:
    """Return what to call with numbers; the run ends with the block.

    Args:
        to: A tracker, a run that has begun, or nothing.
        job: What is done; the first part of every number's name.
        settings: What the numbers depend on, JSON-able.
    """
    if to is None:
        yield lambda _numbers: None
        return
    run: Any = to
    module: Any = None
    if isinstance(to, str):
        module = require(to, to, f"Logging to {to}")
        # Trackers speak on stdout, which is for results.
        with redirect_stdout(sys.stderr):
            run = module.init(project=_PROJECT, config={"job": job, **settings})

    def log(numbers: Mapping[str, Any]) -> None:
        known = {name: value for name, value in numbers.items() if value is not None}
        if known:
            run.log({f"{job}/{name}": value for name, value in known.items()})

    try:
        yield log
    finally:
        if module is not None:
            # The module's own: left to the end of the program, it would speak on stdout again.
            with redirect_stdout(sys.stderr):
                module.finish()
