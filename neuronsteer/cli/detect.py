"""`neuronsteer detect`: from statistics to a neuron set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ParameterError, did_you_mean
from . import commands, console
from .commands import command


@command(
    "detect",
    examples="""
    neuronsteer detect stats -o neurons
    neuronsteer detect stats --method lape --rate 0.02 -o neurons
    neuronsteer detect stats --set per_label=400 --set exclusive=true -o neurons
    """,
)
def detect(
    stats: Annotated[
        str, typer.Argument(metavar="STATS", help="Folder written by 'neuronsteer collect'.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="SET", help="Folder to write.")],
    method: Annotated[str, typer.Option(help="A detector; 'neuronsteer methods' lists them.")] = (
        "lape"
    ),
    rate: Annotated[
        float | None, typer.Option(help="Share of all neurons to select (lape: 0.01).")
    ] = None,
    parameters: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any other parameter of the detector."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Use only these labels, comma-separated.")
    ] = None,
    as_json: commands.Json = False,
    quiet: commands.Quiet = False,
) -> None:
    """Find the neurons of each label in statistics, and write them as a neuron set.

    Statistics stay as they are: detecting again with other parameters costs seconds.
    """
    from ..detectors import DETECTORS
    from ..detectors import detect as run
    from ..stats import load_stats

    given = detector_parameters(method, DETECTORS.get(method), parameters or [])
    if rate is not None:
        given["rate"] = rate
    loaded = load_stats(stats)
    if labels is not None:
        loaded = loaded.only(*(name.strip() for name in labels.split(",")))
    neurons = run(loaded, method=method, **given)
    neurons.save_pretrained(out)
    empty = [label for label, count in neurons.counts.items() if count == 0]
    if empty:
        console.note(
            f"No neuron was found for {', '.join(empty)}: more text, a higher rate or a lower bar "
            "may help.",
            quiet=quiet,
        )
    if as_json:
        console.dump(neurons.summary())
    elif not quiet:
        console.out().print(neurons.table())
    console.note(f"Wrote {out}. Next: neuronsteer show {out}", quiet=quiet)


def detector_parameters(method: str, detector: Any, given: list[str]) -> dict[str, Any]:
    """Return the parameters in `--set NAME=VALUE` options, values read as JSON where they are.

    Raises:
        ParameterError: If the detector has no such parameter.
    """
    known = {field.name for field in dataclasses.fields(detector)}
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParameterError(f"Cannot read --set {text!r}; expected NAME=VALUE.")
        if name not in known:
            raise ParameterError(
                f"The detector {method!r} has no parameter {name!r}; it takes "
                f"{', '.join(sorted(known))}.{did_you_mean(name, known)}"
            )
        found[name] = value_of(value)
    return found


def value_of(text: str) -> Any:
    """Return what `NAME=text` means: JSON where it is some, otherwise the text itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text
