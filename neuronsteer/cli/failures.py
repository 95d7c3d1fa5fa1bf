"""From an exception to one message on stderr and an exit code.

What a user can cause is told in one message, without a traceback, and exits with 2. Anything else
is a mistake of ours, and its traceback is wanted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Generator
from contextlib import contextmanager

import typer

from ..errors import NeuronSteerError
from . import console

USER_ERROR = 2
INTERRUPTED = 130
_DEBUG = "NEURONSTEER_DEBUG"


def debug() -> None:
    """Show tracebacks from now on, in this process and in those it starts."""
    os.environ[_DEBUG] = "1"


@contextmanager
def reported(resume: str | None = None) -> Generator[None, None, None]:
    """Turn errors that a user can cause into a message and an exit code.

    Args:
        resume: What to say after an interruption: what was kept, and how to go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        console.error("Interrupted." + (f" {resume}" if resume else ""), heading="")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        message = _message(error)
        if message is None or os.environ.get(_DEBUG, "0") not in ("", "0"):
            raise
        console.error(message)
        raise typer.Exit(USER_ERROR) from None


def _message(error: Exception) -> str | None:
    """Return what to tell the user, or None for an error that is not theirs."""
    if isinstance(error, NeuronSteerError):
        return str(error)
    if isinstance(error, UnicodeDecodeError):
        return (
            f"Cannot decode the text as {error.encoding}: byte {error.start} is "
            f"0x{error.object[error.start]:02x} ({error.reason}). Save the file as UTF-8, or "
            "convert it with: iconv -t utf-8."
        )
    if isinstance(error, OSError):
        # A reader that went away (`neuronsteer show … | head`) is no error to talk about.
        return None if error.errno == errno.EPIPE else _system(error)
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return (
            "The device ran out of memory. Try --dtype bfloat16, a smaller batch or context, or "
            f"--device cpu. ({console.first_line(error)})"
        )
    return None


def _system(error: OSError) -> str:
    if error.strerror and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return str(error) or type(error).__name__
