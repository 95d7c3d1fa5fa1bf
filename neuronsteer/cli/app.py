"""The commands, in the order in which they are used."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .commands import app, show_tracebacks

# Importing a module registers its commands; the order is the order of `neuronsteer --help`.
from . import demo as demo  # isort: skip
from . import collect as collect  # isort: skip
from . import detect as detect  # isort: skip
from . import tune as tune  # isort: skip
from . import show as show  # isort: skip
from . import analyze as analyze  # isort: skip
from . import generate as generate  # isort: skip
from . import evaluate as evaluate  # isort: skip
from . import confusion as confusion  # isort: skip
from . import export as export  # isort: skip
from . import serve as serve  # isort: skip
from . import hub as hub  # isort: skip
from . import space as space  # isort: skip
from . import about as about  # isort: skip


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(about.version())
        raise typer.Exit


@app.callback(
    epilog="Start with [bold]neuronsteer demo[/bold]; every command explains itself with "
    "[bold]--help[/bold]."
)
def _globals(  # pyright: ignore[reportUnusedFunction]
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
    version: Annotated[  # noqa: ARG001
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Find the neurons that decide which language a model speaks, and steer with them."""
    if debug:
        show_tracebacks()


def run() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter should show a substitute, not a traceback.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # pyright: ignore[reportAttributeAccessIssue]
    app(prog_name="neuronsteer")
