"""Options of the commands that write steering down, and what they mean together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ParameterError
from .models import DEMO

if TYPE_CHECKING:
    from ..exports import Exported
    from ..operations import Operation

Operate = Annotated[
    str | None, typer.Option(help="zero, scale, set or add; by default what the set says.")
]
Value = Annotated[
    str | None,
    typer.Option(
        help="What to set or add: mean, median, max, diffmean, p10 …, or a number; for scale, the "
        "factor."
    ),
]
Site = Annotated[
    str | None,
    typer.Option(help="mlp.neuron, or mlp.act to change the gate activation as the papers do."),
]
Strength = Annotated[float, typer.Option(help="How much of the operation; 1 is all of it.")]
AwayFrom = Annotated[
    list[str] | None,
    typer.Option(metavar="LABEL", help="Also switch off the neurons of this label; repeatable."),
]
Part = Annotated[
    str,
    typer.Option(
        help="all, or only the scale or the constant part, to put the two into different files."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an earlier export.")]
Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write.")]


def chosen_operation(
    name: str | None, value: str | None, site: str | None, default: dict[str, Any]
) -> Operation | None:
    """Return the operation asked for; `None` leaves the choice to the set."""
    from ..operations import operation

    if name is None and value is None and site is None:
        return None
    spec: str | dict[str, Any] = default if name is None else name
    chosen = name or str(default["name"])
    found: dict[str, Any] = {} if site is None else {"site": site}
    if value is not None:
        try:
            amount: float | str = float(value)
        except ValueError:
            amount = value
        if chosen == "scale" and isinstance(amount, str):
            raise ParameterError(f"--operation scale needs a number as --value; found {value!r}.")
        found["factor" if chosen == "scale" else "value"] = amount
    return operation(spec, **found)


def model_path(name: str) -> str:
    """Return the folder or Hub id that the user means, 'demo' included; nothing is loaded."""
    if name != DEMO:
        return name
    from ..demo import model_folder

    return str(model_folder())


def quiet_transformers() -> None:
    """Keep transformers' own progress bars and warnings out of the command's output."""
    from transformers import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


def report(done: Exported, *, as_json: bool, quiet: bool) -> None:
    """Say what was written."""
    from . import console

    if as_json:
        console.dump(
            {
                "path": str(done.path),
                "to": done.to,
                "does": done.text,
                "files": done.files,
                "notes": list(done.notes),
            }
        )
        return
    total = sum(done.files.values())
    size = f"{total / 1e6:.1f} MB" if total >= 10**6 else f"{total / 1e3:.1f} kB"
    console.note(f"Wrote {done.path} ({done.to}, {size}): {done.text}.", quiet=quiet)
    for note in done.notes:
        console.note(note, quiet=quiet)
